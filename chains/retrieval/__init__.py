"""Local documents: loaders, splitting, embeddings, manifest, index, ingest and search.

Knows no language model. Names are imported when they are asked for, so that importing this package costs
nothing and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.retrieval.embedder import default_embeddings
    from chains.retrieval.errors import RetrievalError
    from chains.retrieval.ingest import FailedFile, IngestReport, Progress
    from chains.retrieval.langchain import StoreRetriever
    from chains.retrieval.search import CrossEncoderReranker, Fusion, Hit, Reranker, SearchOptions
    from chains.retrieval.splitter import SplitterConfig
    from chains.retrieval.store import DocumentStore

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

_HOMES = {
    "CrossEncoderReranker": "search",
    "DocumentStore": "store",
    "FailedFile": "ingest",
    "Fusion": "search",
    "Hit": "search",
    "IngestReport": "ingest",
    "Progress": "ingest",
    "Reranker": "search",
    "RetrievalError": "errors",
    "SearchOptions": "search",
    "SplitterConfig": "splitter",
    "StoreRetriever": "langchain",
    "default_embeddings": "embedder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"chains.retrieval.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
