# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .classify import Classification as Classification
from .classify import classify_chain as classify_chain
from .code import CodeResult as CodeResult
from .code import code_chain as code_chain
from .complete import complete_chain as complete_chain
from .errors import ChainError as ChainError
from .rag import Answer as Answer
from .rag import AnswerDelta as AnswerDelta
from .rag import Citation as Citation
from .rag import rag_chain as rag_chain
from .summarize import Summary as Summary
from .summarize import SummaryDelta as SummaryDelta
from .summarize import summarize_chain as summarize_chain
