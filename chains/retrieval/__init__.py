"""Local documents: loaders, splitting, embeddings, manifest, index, ingest and search.

Knows no language model. Names are imported when they are asked for, so that importing this package costs
nothing and never imports torch.
"""

import lazy_loader

__all__ = [
    "CrossEncoderReranker",
    "DocumentStore",
    "FailedFile",
    "Fusion",
    "Hit",
    "IngestReport",
    "Progress",
    "Reranker",
    "RetrievalError",
    "SearchOptions",
    "SplitterConfig",
    "StoreRetriever",
    "default_embeddings",
]
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
