"""A store as LangChain's retriever and vector store.

The metadata of every Document says where its text stands, so that a citation can be resolved without another
query.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict

from chains.retrieval.manifest import APP_PREFIX
from chains.retrieval.search import Hit, SearchMode, SearchOptions
from chains.text.vectors import unit

if TYPE_CHECKING:
    from chains.retrieval import DocumentStore


def to_document(hit: Hit, line: int | None = None) -> Document:
    """Return a hit as a LangChain Document.

    Its metadata are `source` (the path), `title`, `heading`, `page` (from 1, or None), `line` (or None),
    `start` and `end` (offsets into the stored text), `chunk_id`, `ordinal`, `kind`, `modified`, `score` and
    `cosine` (both the cosine; other stores use the first name for distances, too), `rank_score` (what ordered
    the hits), the format's other places (such as `sheet` and `row`), and the document's own metadata, as far
    as the names are free.
    """
    chunk = hit.chunk
    metadata: dict[str, Any] = {
        **chunk.metadata,
        **chunk.place,
        "source": chunk.source if chunk.origin == "file" else chunk.metadata.get("source", chunk.source),
        "title": chunk.title or os.path.basename(chunk.source),
        "heading": chunk.heading,
        "page": chunk.page,
        "line": chunk.place.get("line", line),
        "start": hit.start,
        "end": hit.end,
        "chunk_id": chunk.chunk_id.removeprefix(APP_PREFIX),
        "ordinal": chunk.ordinal,
        "kind": chunk.kind,
        "modified": chunk.modified,
        "score": hit.cosine,
        "cosine": hit.cosine,
        "rank_score": hit.score,
    }
    return Document(id=metadata["chunk_id"], page_content=hit.text, metadata=metadata)


class StoreRetriever(BaseRetriever):
    """LangChain's retriever over a `DocumentStore`; made by `store.retriever()`.

        retriever = DocumentStore("store").retriever(k=4)
        documents = retriever.invoke("When do the ferries sail?")
        documents = retriever.invoke("When do the ferries sail?", filter={"type": "pdf"})

    The fields are those of `SearchOptions`; all but `diversity` and `reranker` may also be given to `invoke`.
    Raises EmptyQuery for a question without words and BadFilter for a filter that is not valid.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: Any
    k: int = 4
    mode: SearchMode = "hybrid"
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    neighbours: int = 0
    fetch_k: int = 30
    diversity: float = 0.5
    reranker: Any = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        store: DocumentStore = self.store
        options = SearchOptions(
            k=kwargs.get("k", self.k),
            mode=kwargs.get("mode", self.mode),
            filter=kwargs.get("filter", self.filter),
            min_score=kwargs.get("min_score", self.min_score),
            neighbours=kwargs.get("neighbours", self.neighbours),
            fetch_k=kwargs.get("fetch_k", self.fetch_k),
            diversity=self.diversity,
            reranker=self.reranker,
        )
        return [to_document(hit, store.line(hit)) for hit in store.search(query, options)]


class StoreVectorStore(VectorStore):
    """LangChain's vector store over a `DocumentStore`; made by `store.vectorstore`.

        vectorstore = DocumentStore("store").vectorstore
        vectorstore.add_texts(["The ferry sails at nine."], ids=["ferry"])
        documents = vectorstore.similarity_search("When do the ferries sail?")

    A text that is added becomes one chunk and is never split. If it is longer than the embedder's window, its
    vector is the mean of its pieces. Searches find the ingested files too.
    """

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    @property
    def embeddings(self) -> Embeddings:
        """The store's embeddings."""
        return self._store.embeddings

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, replacing those whose ids exist; return the ids."""
        wanted = list(texts)
        names = [name or str(uuid.uuid4()) for name in (ids or [None] * len(wanted))]
        metadata = metadatas or [{} for _ in wanted]
        # If an id is given twice the last text stays, as if the texts had been added one after the other.
        latest = {name: (text, meta) for name, text, meta in zip(names, wanted, metadata, strict=True)}
        self._store.add_texts(latest)
        return names

    def delete(
        self,
        ids: list[str] | None = None,
        *,
        filter: dict[str, Any] | None = None,
        where: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> bool | None:
        """Delete chunks by id, by filter, or all if neither is given; see `DocumentStore.delete`.

        `where` is Chroma's name for `filter`. Raises TypeError for any other argument, because without a
        condition everything would be deleted.
        """
        if kwargs or (filter is not None and where is not None):
            given = sorted(kwargs) or ["filter", "where"]
            raise TypeError(f"expected ids= and one of filter= and where=, found {given}; leave the rest out")
        self._store.delete(ids, filter=where if filter is None else filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these chunk ids, as far as they exist, in the order of `ids`."""
        found = {chunk.chunk_id.removeprefix(APP_PREFIX): chunk for chunk in self._store.chunks(ids)}
        hits = [
            Hit(chunk=c, start=c.start, end=c.end, text=c.text, score=0.0, cosine=0.0)
            for c in (found[name] for name in ids if name in found)
        ]
        return [_document(hit) for hit in hits]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the `k` nearest chunks with their cosines."""
        hits = self._store.search(query, SearchOptions(k=k, mode="dense", filter=filter))
        return [(_document(hit), hit.cosine) for hit in hits]

    def similarity_search(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` nearest chunks."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` chunks nearest to a vector of any length."""
        vector = unit(np.asarray(embedding, dtype=np.float32))
        return [_document(hit) for hit in self._store.search_by_vector(vector, k)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return `k` of the nearest `fetch_k` chunks; the lower `lambda_mult`, the more they differ."""
        options = SearchOptions(
            k=k, mode="mmr", fetch_k=fetch_k, diversity=1 - lambda_mult, filter=kwargs.get("filter")
        )
        return [_document(hit) for hit in self._store.search(query, options)]

    def _select_relevance_score_fn(self) -> Any:
        return lambda cosine: min(max(cosine, 0.0), 1.0)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | None = None,
        **kwargs: Any,
    ) -> StoreVectorStore:
        """Return a store at `path` with these texts in it; other options are those of `DocumentStore`."""
        if path is None:
            raise ValueError("expected path=…, the store's folder, found None; give one")
        from chains.retrieval import DocumentStore

        made = DocumentStore(path, embeddings=embedding, **kwargs).vectorstore
        made.add_texts(texts, metadatas, ids=ids)
        return made


def _document(hit: Hit) -> Document:
    """Return an app's text with its own metadata only, and a chunk of a file with all of the store's."""
    if hit.chunk.origin == "app":
        name = hit.chunk.chunk_id.removeprefix(APP_PREFIX)
        return Document(id=name, page_content=hit.text, metadata=dict(hit.chunk.metadata))
    return to_document(hit)
