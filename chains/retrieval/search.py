"""One ranking out of two: dense cosines and BM25 scores brought to one scale.

Pure arithmetic on scores by row; knows nothing of texts or indexes. The constants were chosen on the tuning
halves of two labelled sets (benchmarks/retrieval_quality.py).

Second looks at what a search found: the Reranker Protocol and a cross-encoder behind it.

Knows a query and texts. Downloads nothing: the cross-encoder is a local folder.

Finds passages: dense, keyword and hybrid search with filters, thresholds, diversity and neighbours.

Knows the manifest, the nearest-neighbour index and the embedder. Refuses to know LangChain and files. The
order of equal scores is that of path and place, so that equal stores give equal answers.
"""

from __future__ import annotations

import math
import re
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
from chains.retrieval.errors import BadFilter, EmbedderUnavailable, EmptyQuery
from chains.retrieval.filters import Filter, allowed_rows
from chains.retrieval.index import DECIMALS
from chains.retrieval.manifest import Manifest, keyword_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """How the two halves are joined.

    method: "convex" adds scores scaled to mean 0 and deviation 1 over the candidates; "rrf" adds reciprocal
    ranks
        (Cormack, Clarke and Buettcher 2009) with constant `rrf_k`.
    dense_weight: the share of the dense half, 0..1.
    depth: candidates taken from each half.
    weights: BM25's weights of title, heading and body.
    feedback: how far the query's vector moves towards the mean of the first `feedback_k` passages before the
        dense half is asked again (Rocchio 1971, without negative examples); 0 leaves it where it is.
    """

    method: Literal["convex", "rrf"] = "convex"
    dense_weight: float = 0.45
    depth: int = 100
    rrf_k: int = 10
    weights: tuple[float, float, float] = (2.0, 1.0, 1.0)
    feedback: float = 0.5
    feedback_k: int = 3


def fuse(dense: Mapping[int, float], keyword: Mapping[int, float], config: Fusion) -> dict[int, float]:
    """The joint score of every candidate row, higher is better.

    Under "convex" `dense` should hold the cosine of every candidate; a row that the keyword half lacks has
    matched no word and scores 0 there.
    """
    if config.method == "rrf":
        return _reciprocal(dense, keyword, config)
    rows = dense.keys() | keyword.keys()
    left = _standardized({row: dense.get(row, min(dense.values(), default=0.0)) for row in rows})
    right = _standardized({row: keyword.get(row, 0.0) for row in rows})
    share = config.dense_weight
    return {row: share * left[row] + (1 - share) * right[row] for row in rows}


def _standardized(scores: Mapping[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    mean = sum(scores.values()) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores.values()) / len(scores))
    return {row: (score - mean) / max(deviation, 1e-9) for row, score in scores.items()}


def _reciprocal(dense: Mapping[int, float], keyword: Mapping[int, float], config: Fusion) -> dict[int, float]:
    joint: dict[int, float] = {}
    for scores, share in ((dense, config.dense_weight), (keyword, 1 - config.dense_weight)):
        order = sorted(scores, key=lambda row: (-scores[row], row))
        for rank, row in enumerate(order[: config.depth], start=1):
            joint[row] = joint.get(row, 0.0) + share / (config.rrf_k + rank)
    return joint


@runtime_checkable
class Reranker(Protocol):
    """Judges how well each text answers a query."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score a text, higher is better, comparable within the call."""


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder from a local folder, loaded on first use.

    Args:
        folder: where the model's files lie.
        batch_size: pairs a forward pass takes.
        device: where it runs.

    Raises:
        EmbedderUnavailable: the folder holds no model.
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
        """The model's score of each (query, text); with one label a sigmoid of its logit."""
        if not texts:
            return []
        pairs = [(query, text) for text in texts]
        with self._lock:
            found = self._model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        return [float(score) for score in found]


SearchMode = Literal["hybrid", "dense", "keyword", "mmr"]
# Words that say nothing of a question's subject; BM25's idf weighs them near 0 anyway, dropping them saves
# time.
_STOP_WORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it "
    "its me my no not of on or our shall should so than that the their them then there these they this those "
    "to us was we were what when where which who whom whose why will with would you your".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """What is asked of one search.

    k: passages wanted. filter: see filters.py. min_score: least cosine, -1..1. neighbours: chunks joined to a
    hit on either side. fetch_k: candidates that "mmr" and a reranker choose from. diversity: 0 (none) to 1
    for "mmr".
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
    """A passage found: its chunk, the span of it and its joined neighbours, its rank score and its cosine."""

    chunk: ChunkRecord
    start: int
    end: int
    text: str
    score: float
    cosine: float


class Searcher:
    """Search over one manifest and its index."""

    def __init__(
        self, manifest: Manifest, nearest: NearestNeighbours, embedder: Embedder, fusion: Fusion | None = None
    ) -> None:
        self._manifest = manifest
        self._nearest = nearest
        self._embedder = embedder
        self._fusion = fusion or Fusion()

    def search(self, query: str, options: SearchOptions) -> list[Hit]:
        """The passages that answer `query` best; raises EmptyQuery and BadFilter."""
        if not query.strip():
            raise EmptyQuery(f"expected a question, found {query!r}; ask with at least one word")
        among = None if options.filter is None else allowed_rows(self._manifest, options.filter)
        if among == [] or self._manifest.empty:
            return []
        vector = self._embedder.embed_query(query)
        wanted = max(options.k, options.fetch_k) if options.mode == "mmr" or options.reranker else options.k
        scored = self._ranked(query, vector, options.mode, wanted, among)
        cosines = self._cosines(vector, list(scored))
        if options.min_score is not None:
            scored = {row: s for row, s in scored.items() if cosines.get(row, -1.0) >= options.min_score}
        hits = self._hits(scored, cosines, wanted)
        if options.reranker is not None:
            hits = _reranked(options.reranker, query, hits)
        if options.mode == "mmr":
            hits = self._diverse(hits, options)
        return self._joined(hits[: options.k], options.neighbours)

    def by_vector(self, vector: NDArray[np.float32], k: int, among: list[int] | None = None) -> list[Hit]:
        """The nearest chunks to a unit vector, float32 [dimension]."""
        dense = dict(self._dense(vector, k, among))
        return self._hits(dense, dense, k)

    def _ranked(
        self, query: str, vector: NDArray[np.float32], mode: SearchMode, k: int, among: list[int] | None
    ) -> dict[int, float]:
        """Scores of candidate rows under one mode."""
        if mode in ("dense", "mmr"):
            return dict(self._dense(vector, k, among))
        depth = max(self._fusion.depth, k)
        match = keyword_query(query)
        weights = self._fusion.weights
        keyword = dict(self._manifest.keyword(match, weights, depth, among)) if match else {}
        if mode == "keyword":
            return keyword
        first = self._fused(vector, keyword, depth, among)
        if not self._fusion.feedback or not first:
            return first
        ranked = sorted((round(score, DECIMALS) for score in first.values()), reverse=True)
        # Shared places all count, so that row numbers do not.
        floor = ranked[min(self._fusion.feedback_k, len(ranked)) - 1]
        vectors = self._manifest.vectors_of([row for row in first if round(first[row], DECIMALS) >= floor])
        if not vectors:
            return first
        moved = vector + self._fusion.feedback * np.mean([vectors[row] for row in sorted(vectors)], axis=0)
        moved = (moved / np.linalg.norm(moved)).astype(np.float32)
        return self._fused(moved, keyword, depth, among)

    def _fused(
        self, vector: NDArray[np.float32], keyword: dict[int, float], depth: int, among: list[int] | None
    ) -> dict[int, float]:
        dense = dict(self._dense(vector, depth, among))
        if self._fusion.method == "convex":
            dense.update(self._cosines(vector, [row for row in keyword if row not in dense]))
        return fuse(dense, keyword, self._fusion)

    def _dense(self, vector: NDArray[np.float32], k: int, among: list[int] | None) -> list[tuple[int, float]]:
        if among is not None:
            return self._nearest.exact().search(vector, k, among)
        return self._nearest.search(vector, k)

    def _cosines(self, vector: NDArray[np.float32], rows: Sequence[int]) -> dict[int, float]:
        vectors = self._manifest.vectors_of(rows)
        return {row: round(float(found @ vector), DECIMALS) for row, found in vectors.items()}

    def _hits(self, scored: dict[int, float], cosines: dict[int, float], k: int) -> list[Hit]:
        """The best `k` rows with their chunks, equal scores in the order of path and place."""
        # Rows a little past the k-th are read too, so that shared places are settled by path and not by row.
        order = sorted(scored, key=lambda row: (-scored[row], row))
        if len(order) > k:
            floor = round(scored[order[k - 1]], DECIMALS)
            order = [row for row in order if round(scored[row], DECIMALS) >= floor]
        chunks = self._manifest.chunks_by_row(order)
        hits = [
            Hit(
                chunk=chunk,
                start=chunk.start,
                end=chunk.end,
                text=chunk.text,
                score=round(scored[row], DECIMALS),
                cosine=cosines.get(row, 0.0),
            )
            for row, chunk in chunks.items()
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.chunk.source, hit.chunk.ordinal))
        return hits[:k]

    def _diverse(self, hits: list[Hit], options: SearchOptions) -> list[Hit]:
        """Maximal marginal relevance (Carbonell and Goldstein 1998) over the candidates."""
        vectors = self._manifest.vectors_of([hit.chunk.row for hit in hits])
        pool = [hit for hit in hits if hit.chunk.row in vectors]
        chosen: list[Hit] = []
        nearest = dict.fromkeys((hit.chunk.row for hit in pool), 0.0)
        while pool and len(chosen) < options.k:
            share = options.diversity
            best = max(pool, key=lambda h: (1 - share) * h.cosine - share * nearest[h.chunk.row])
            pool.remove(best)
            chosen.append(best)
            for hit in pool:
                likeness = float(vectors[hit.chunk.row] @ vectors[best.chunk.row])
                nearest[hit.chunk.row] = max(nearest[hit.chunk.row], likeness)
        return chosen

    def _joined(self, hits: list[Hit], reach: int) -> list[Hit]:
        """Each hit with `reach` chunks on either side as one passage; a hit inside an earlier one goes."""
        if reach == 0:
            return hits
        passages: list[Hit] = []
        for hit in hits:
            if any(p.chunk.source == hit.chunk.source and p.start <= hit.start < p.end for p in passages):
                continue
            first, last = hit.chunk.ordinal - reach, hit.chunk.ordinal + reach
            span = self._manifest.chunks(
                "path = ? AND ordinal BETWEEN ? AND ?", (hit.chunk.source, first, last)
            )
            start, end = min(c.start for c in span), max(c.end for c in span)
            text = self._manifest.text(hit.chunk.source, start, end) or hit.text
            passages.append(replace(hit, start=start, end=end, text=text))
        return passages


def keyword_query(query: str) -> str:
    """An FTS5 expression that any of the query's words meets, empty where it has none."""
    words = list(dict.fromkeys(re.findall(r"\w+", keyword_text(query.lower()))))
    telling = [word for word in words if word not in _STOP_WORDS] or words
    return " OR ".join(f'"{word}"' for word in telling[:64])


def _reranked(reranker: Reranker, query: str, hits: list[Hit]) -> list[Hit]:
    scores = reranker.scores(query, [hit.text for hit in hits])
    fresh = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
    return sorted(fresh, key=lambda hit: (-hit.score, hit.chunk.source, hit.chunk.ordinal))
