"""The store as a LangChain retriever.

Knows LangChain's Document and BaseRetriever, and search. The metadata of every Document says where it stands,
so that a citation can be resolved without asking again.

The store as a LangChain VectorStore: texts with ids and metadata that an app adds and deletes itself.

Knows LangChain's interface and the store. A text that is added is one passage, never cut; where it is longer
than the embedder's window its vector is the mean of its pieces. Searches see the ingested files too.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict

from chains.retrieval.document import LINE_KINDS, ChunkRecord, FileFacts
from chains.retrieval.ingest import whole
from chains.retrieval.manifest import APP_PREFIX
from chains.retrieval.search import Hit, SearchMode, SearchOptions

if TYPE_CHECKING:
    from chains.retrieval.store import DocumentStore


def to_document(hit: Hit, line: int | None = None) -> Document:
    """A passage with its metadata.

    `source` (path), `title`, `heading`, `page` or None, `line` or None, `start` and `end` (characters into
    the stored text), `chunk_id`, `ordinal`, `kind`, `modified`, `score` (cosine), `rank_score` (what ordered
    it), and the document's own metadata under names that are free.
    """
    chunk = hit.chunk
    metadata: dict[str, Any] = {
        **chunk.metadata,
        "source": chunk.source if chunk.origin == "file" else chunk.metadata.get("source", chunk.source),
        "title": chunk.title or os.path.basename(chunk.source),
        "heading": chunk.heading,
        "page": chunk.page,
        "line": line,
        "start": hit.start,
        "end": hit.end,
        "chunk_id": chunk.chunk_id,
        "ordinal": chunk.ordinal,
        "kind": chunk.kind,
        "modified": chunk.modified,
        "score": hit.cosine,
        "rank_score": hit.score,
    }
    return Document(id=chunk.chunk_id, page_content=hit.text, metadata=metadata)


class StoreRetriever(BaseRetriever):
    """Passages of a `DocumentStore`; `k`, `mode` and `filter` may also be given to `invoke`.

    Raises EmptyQuery for a question without words and BadFilter for a filter that cannot be read.
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


def has_lines(kind: str) -> bool:
    """Whether an offset into the stored text of this kind also gives a line of the file."""
    return kind in LINE_KINDS


class StoreVectorStore(VectorStore):
    """LangChain's view of a `DocumentStore`; made by `store.vectorstore`."""

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
        """Adds texts, replacing those whose id is there; returns the ids."""
        wanted = list(texts)
        names = [name or str(uuid.uuid4()) for name in (ids or [None] * len(wanted))]
        facts = metadatas or [{} for _ in wanted]
        # Of one id given twice the last text stands, as if they had been added one after the other.
        latest = {name: (text, meta) for name, text, meta in zip(names, wanted, facts, strict=True)}
        self._store.add_texts(latest)
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Deletes texts by id; ids that are not there are passed over."""
        if ids:
            self._store.delete_texts(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these chunk ids that are there, in the order asked for."""
        found = {chunk.chunk_id: chunk for chunk in self._store.chunks(ids)}
        return [_document(_hit(found[name], 0.0)) for name in ids if name in found]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The `k` nearest passages with their cosine."""
        hits = self._store.search(query, SearchOptions(k=k, mode="dense", filter=filter))
        return [(_document(hit), hit.cosine) for hit in hits]

    def similarity_search(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` nearest passages."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """The `k` passages nearest to a vector of any length."""
        vector = np.asarray(embedding, dtype=np.float32)
        unit = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
        return [_document(hit) for hit in self._store.search_by_vector(unit, k)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`k` of the nearest `fetch_k` passages that differ; `lambda_mult` 1 asks for no difference."""
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
        """A store at `path` (which must be given) with these texts in it."""
        if path is None:
            raise ValueError("expected path=…, the store's folder, found None; give one")
        from chains.retrieval.store import DocumentStore

        made = DocumentStore(path, embeddings=embedding, **kwargs).vectorstore
        made.add_texts(texts, metadatas, ids=ids)
        return made


def app_document(name: str, text: str, metadata: dict[str, Any]) -> tuple[FileFacts, Any, Any]:
    """An app's text as (facts, document, chunks); raises TypeError for metadata that is no JSON."""
    json.dumps(metadata)
    document, chunks = whole(text, name)
    facts = FileFacts(path=f"{APP_PREFIX}{name}", size=0, modified=0.0, stat="", origin="app")
    return facts, replace(document, metadata=dict(metadata)), chunks


def _hit(chunk: ChunkRecord, cosine: float) -> Hit:
    return Hit(chunk=chunk, start=chunk.start, end=chunk.end, text=chunk.text, score=cosine, cosine=cosine)


def _document(hit: Hit) -> Document:
    """An app's text with its own metadata and nothing else; a passage of a file with all of ours."""
    if hit.chunk.origin == "app":
        return Document(id=hit.chunk.chunk_id, page_content=hit.text, metadata=dict(hit.chunk.metadata))
    return to_document(hit)
