"""Search in a store: dense, keyword and hybrid, with filters, thresholds, diversity and reranking.

`Searcher.search` returns `Hit`s. Hits with equal scores are ordered by path and position, so that equal
stores give equal answers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.chroma import NearestNeighbours
from chains.retrieval.document import ChunkRecord
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import (
    BadFilter,
    EmbedderUnavailable,
    EmptyQuery,
    QueryError,
    require_whole_characters,
)
from chains.retrieval.filters import Filter, allowed_rows
from chains.retrieval.full_text import keyword_query
from chains.retrieval.index import DECIMALS
from chains.retrieval.manifest import Manifest
from chains.text.vectors import unit

SearchMode = Literal["hybrid", "dense", "keyword", "mmr"]


@runtime_checkable
class Reranker(Protocol):
    """Scores how well each text answers a query."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score for each text, higher is better, comparable within one call."""


class CrossEncoderReranker:
    """Reranks with a sentence-transformers CrossEncoder from a local folder, loaded on first use.

        reranker = CrossEncoderReranker("models/ms-marco-MiniLM-L6-v2")
        retriever = store.retriever(k=4, fetch_k=30, reranker=reranker)
        documents = retriever.invoke("When do the ferries sail?")

    Args:
        folder: The model's files. Nothing is downloaded.
        batch_size: Pairs of query and text per forward pass.
        device: The torch device to run on.

    Raises:
        EmbedderUnavailable: The folder does not contain a model.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 16, device: str = "cpu") -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.device = device
        self._lock = threading.Lock()
        if not (self.folder / "config.json").is_file():
            raise EmbedderUnavailable(
                f"expected a cross-encoder's files in {str(folder)!r}, found no config.json; "
                "give the folder of a downloaded model"
            )

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(self.folder), device=self.device, local_files_only=True)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the model's score of each (query, text); with one label, the sigmoid of its logit."""
        if not texts:
            return []
        pairs = [(query, text) for text in texts]
        with self._lock:
            found = self._model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        return [float(score) for score in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """How hybrid search combines dense and keyword scores into one ranking.

    The defaults were chosen on the tuning halves of two labelled sets (benchmarks/retrieval_quality.py).

        store = DocumentStore("store", fusion=Fusion(method="rrf", dense_weight=0.6))

    Args:
        method: "convex" adds the two scores after scaling each to mean 0 and deviation 1 over the candidates.
            "rrf" adds reciprocal ranks (Cormack, Clarke and Buettcher 2009).
        dense_weight: The share of the dense scores, 0 to 1.
        depth: How many candidates each of the two searches contributes.
        rrf_k: The constant of "rrf".
        weights: BM25's weights of title, heading and body.
        feedback: How far the query's vector moves towards the mean of the first `feedback_k` chunks before
            the dense search is repeated (Rocchio 1971, without negative examples). 0 turns it off.
        feedback_k: How many chunks the feedback uses.
    """

    method: Literal["convex", "rrf"] = "convex"
    dense_weight: float = 0.45
    depth: int = 100
    rrf_k: int = 10
    weights: tuple[float, float, float] = (2.0, 1.0, 1.0)
    feedback: float = 0.5
    feedback_k: int = 3

    def fuse(self, dense: Mapping[int, float], keyword: Mapping[int, float]) -> dict[int, float]:
        """Return the combined score of every candidate row, higher is better.

        With "convex", `dense` should contain the cosine of every candidate. A row that is missing from
        `keyword` matched no word and scores 0 there.
        """
        if self.method == "rrf":
            return self._reciprocal_ranks(dense, keyword)
        rows = dense.keys() | keyword.keys()
        left = _standardized({row: dense.get(row, min(dense.values(), default=0.0)) for row in rows})
        right = _standardized({row: keyword.get(row, 0.0) for row in rows})
        share = self.dense_weight
        return {row: share * left[row] + (1 - share) * right[row] for row in rows}

    def _reciprocal_ranks(self, dense: Mapping[int, float], keyword: Mapping[int, float]) -> dict[int, float]:
        fused: dict[int, float] = {}
        for scores, share in ((dense, self.dense_weight), (keyword, 1 - self.dense_weight)):
            order = sorted(scores, key=lambda row: (-scores[row], row))
            for rank, row in enumerate(order[: self.depth], start=1):
                fused[row] = fused.get(row, 0.0) + share / (self.rrf_k + rank)
        return fused


def _standardized(scores: Mapping[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    mean = sum(scores.values()) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores.values()) / len(scores))
    return {row: (score - mean) / max(deviation, 1e-9) for row, score in scores.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """The options of one search; raises BadFilter for values that are not valid.

        options = SearchOptions(k=8, mode="keyword", filter={"type": "pdf"})
        hits = store.search("force majeure", options)

    Args:
        k: How many hits to return.
        mode: "dense" ranks by cosine, "keyword" by BM25, "hybrid" by both (see `Fusion`), and "mmr" by cosine
            and diversity.
        filter: Only chunks that meet these conditions; see `chains.retrieval.filters`.
        min_score: Drop hits with a lower cosine, -1 to 1.
        neighbours: How many chunks on either side to join to each hit.
        fetch_k: How many candidates "mmr" and a reranker choose from.
        diversity: For "mmr", from 0 (the nearest) to 1 (as different as possible).
        reranker: Orders the `fetch_k` candidates anew.
    """

    k: int = 4
    mode: SearchMode = "hybrid"
    filter: Filter | None = None
    min_score: float | None = None
    neighbours: int = 0
    fetch_k: int = 30
    diversity: float = 0.5
    reranker: Reranker | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or self.fetch_k < 1 or self.neighbours < 0:
            raise BadFilter(
                f"expected k and fetch_k of at least 1 and neighbours of at least 0, found {self.k!r}, "
                f"{self.fetch_k!r}, {self.neighbours!r}"
            )
        if self.mode not in get_args(SearchMode):
            raise BadFilter(f"expected a mode out of {get_args(SearchMode)}, found {self.mode!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A chunk that a search found.

    `start`, `end` and `text` include the neighbours that were joined to the chunk. `score` is what ordered
    the hits (a cosine, a BM25 score, a fused or a reranker's score); `cosine` is always the cosine.

        for hit in store.search("When do the ferries sail?"):
            print(hit.chunk.source, store.line(hit), f"{hit.cosine:.2f}", hit.text[:60])
    """

    chunk: ChunkRecord
    start: int
    end: int
    text: str
    score: float
    cosine: float


class Searcher:
    """Search in one manifest and its index."""

    def __init__(
        self, manifest: Manifest, nearest: NearestNeighbours, embedder: Embedder, fusion: Fusion | None = None
    ) -> None:
        self._manifest = manifest
        self._nearest = nearest
        self._embedder = embedder
        self._fusion = fusion or Fusion()

    def search(self, query: str, options: SearchOptions) -> list[Hit]:
        """Return the hits that answer `query` best; raise EmptyQuery or BadFilter."""
        if not query.strip():
            raise EmptyQuery(f"expected a question, found {query!r}; ask with at least one word")
        require_whole_characters("a question", query, QueryError)
        among = None if options.filter is None else allowed_rows(self._manifest, options.filter)
        if among == [] or self._manifest.empty:
            return []
        if among is None and options.mode != "keyword":
            self._nearest.prepare()  # it starts while the embedder loads
        vector = self._embedder.embed_query(query)
        wanted = max(options.k, options.fetch_k) if options.mode == "mmr" or options.reranker else options.k
        scores = self._scores(query, vector, options.mode, wanted, among)
        cosines = self._cosines(vector, list(scores))
        if options.min_score is not None:
            scores = {row: s for row, s in scores.items() if cosines.get(row, -1.0) >= options.min_score}
        hits = self._hits(scores, cosines, wanted)
        if options.reranker is not None:
            hits = _reranked(options.reranker, query, hits)
        if options.mode == "mmr":
            hits = self._diverse(hits, options)
        return self._with_neighbours(hits[: options.k], options.neighbours)

    def by_vector(self, vector: NDArray[np.float32], k: int, among: list[int] | None = None) -> list[Hit]:
        """Return the chunks nearest to a unit vector, float32 [dimension]."""
        dense = self._dense(vector, k, among)
        return self._hits(dense, dense, k)

    def _scores(
        self, query: str, vector: NDArray[np.float32], mode: SearchMode, k: int, among: list[int] | None
    ) -> dict[int, float]:
        """Return the scores of the candidate rows in one mode."""
        if mode in ("dense", "mmr"):
            return self._dense(vector, k, among)
        depth = max(self._fusion.depth, k)
        match = keyword_query(query)
        weights = self._fusion.weights
        keyword = self._manifest.keyword_scores(match, weights, depth, among) if match else {}
        if mode == "keyword":
            return keyword
        first = self._fused(vector, keyword, depth, among)
        if not self._fusion.feedback or not first:
            return first
        ranked = sorted((round(score, DECIMALS) for score in first.values()), reverse=True)
        # All rows that share the last place count, so that the answer does not depend on row numbers.
        floor = ranked[min(self._fusion.feedback_k, len(ranked)) - 1]
        vectors = self._manifest.vectors([row for row in first if round(first[row], DECIMALS) >= floor])
        if not vectors:
            return first
        moved = vector + self._fusion.feedback * np.mean([vectors[row] for row in sorted(vectors)], axis=0)
        return self._fused(unit(moved), keyword, depth, among)

    def _fused(
        self, vector: NDArray[np.float32], keyword: dict[int, float], depth: int, among: list[int] | None
    ) -> dict[int, float]:
        dense = self._dense(vector, depth, among)
        if self._fusion.method == "convex":
            dense.update(self._cosines(vector, [row for row in keyword if row not in dense]))
        return self._fusion.fuse(dense, keyword)

    def _dense(self, vector: NDArray[np.float32], k: int, among: list[int] | None) -> dict[int, float]:
        if among is not None:
            return dict(self._nearest.exact().search(vector, k, among))
        return dict(self._nearest.search(vector, k))

    def _cosines(self, vector: NDArray[np.float32], rows: Sequence[int]) -> dict[int, float]:
        vectors = self._manifest.vectors(rows)
        return {row: round(float(found @ vector), DECIMALS) for row, found in vectors.items()}

    def _hits(self, scores: dict[int, float], cosines: dict[int, float], k: int) -> list[Hit]:
        """Return the best `k` rows as hits, equal scores in the order of path and position."""
        # All rows that share the k-th place are read, so that the path decides between them, not the row.
        order = sorted(scores, key=lambda row: (-scores[row], row))
        if len(order) > k:
            floor = round(scores[order[k - 1]], DECIMALS)
            order = [row for row in order if round(scores[row], DECIMALS) >= floor]
        chunks = self._manifest.chunks_by_row(order)
        hits = [
            Hit(
                chunk=chunk,
                start=chunk.start,
                end=chunk.end,
                text=chunk.text,
                score=round(scores[row], DECIMALS),
                cosine=cosines.get(row, 0.0),
            )
            for row, chunk in chunks.items()
        ]
        return _ordered(hits)[:k]

    def _diverse(self, hits: list[Hit], options: SearchOptions) -> list[Hit]:
        """Choose hits by maximal marginal relevance (Carbonell and Goldstein 1998)."""
        vectors = self._manifest.vectors([hit.chunk.row for hit in hits])
        pool = [hit for hit in hits if hit.chunk.row in vectors]
        chosen: list[Hit] = []
        # The cosine of each candidate and the chosen hit that it is most similar to.
        similarity = dict.fromkeys((hit.chunk.row for hit in pool), 0.0)
        while pool and len(chosen) < options.k:
            share = options.diversity
            best = max(pool, key=lambda h: (1 - share) * h.cosine - share * similarity[h.chunk.row])
            pool.remove(best)
            chosen.append(best)
            for hit in pool:
                cosine = float(vectors[hit.chunk.row] @ vectors[best.chunk.row])
                similarity[hit.chunk.row] = max(similarity[hit.chunk.row], cosine)
        return chosen

    def _with_neighbours(self, hits: list[Hit], reach: int) -> list[Hit]:
        """Join `reach` chunks on either side to each hit; drop a hit that lies within an earlier one."""
        if reach == 0:
            return hits
        joined: list[Hit] = []
        for hit in hits:
            if any(j.chunk.source == hit.chunk.source and j.start <= hit.start < j.end for j in joined):
                continue
            chunks = self._manifest.chunks_of(
                hit.chunk.source, hit.chunk.ordinal - reach, hit.chunk.ordinal + reach
            )
            if not any(chunk.row == hit.chunk.row for chunk in chunks):
                joined.append(hit)  # the source was removed, or replaced, since the search
                continue
            start, end = min(c.start for c in chunks), max(c.end for c in chunks)
            text = self._manifest.text(hit.chunk.source, start, end) or hit.text
            joined.append(replace(hit, start=start, end=end, text=text))
        return joined


def _reranked(reranker: Reranker, query: str, hits: list[Hit]) -> list[Hit]:
    scores = reranker.scores(query, [hit.text for hit in hits])
    return _ordered([replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)])


def _ordered(hits: list[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.source, hit.chunk.ordinal))
