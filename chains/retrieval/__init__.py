"""Local documents: ingested from files, split, embedded, and searched with citations.

    from chains.retrieval import DocumentStore

    store = DocumentStore("store")
    store.ingest("docs")
    documents = store.retriever(k=4).invoke("When do the ferries sail?")

No language model is involved. Names are imported on first use, so importing this package is free and never
imports torch.
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
