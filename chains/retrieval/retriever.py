"""The store as a LangChain retriever.

Knows LangChain's Document and BaseRetriever, and search. The metadata of every Document says where it stands,
so that a citation can be resolved without asking again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from chains.retrieval.document import LINE_KINDS
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
