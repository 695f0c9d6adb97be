# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .embedder import default_embeddings as default_embeddings
from .errors import RetrievalError as RetrievalError
from .ingest import FailedFile as FailedFile
from .ingest import IngestReport as IngestReport
from .ingest import Progress as Progress
from .langchain import StoreRetriever as StoreRetriever
from .search import CrossEncoderReranker as CrossEncoderReranker
from .search import Fusion as Fusion
from .search import Hit as Hit
from .search import Reranker as Reranker
from .search import SearchOptions as SearchOptions
from .splitter import SplitterConfig as SplitterConfig
from .store import DocumentStore as DocumentStore
