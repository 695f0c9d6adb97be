"""One ranking out of two: dense cosines and BM25 scores brought to one scale.

Pure arithmetic on scores by row; knows nothing of texts or indexes. The constants were chosen on the tuning
halves of two labelled sets (benchmarks/retrieval_quality.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


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
