"""Search latency at 1k, 10k and 100k chunks, both indexes, against numpy brute force over a matrix in memory.

    python benchmarks/search.py [--sizes 1000 10000 100000] [--queries 50]

Vectors are random directions of 384 dimensions and texts random words, so that the figures are of the
machinery and not of an embedder. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval import DocumentStore, SearchOptions
from chains.retrieval.search import SearchMode

WORDS = [f"word{n}" for n in range(5000)]
MODES: tuple[SearchMode, ...] = ("dense", "keyword", "hybrid")


class Hashed(Embeddings):
    """A random direction for each text, the same each time."""

    def embed_query(self, text: str) -> list[float]:
        """One vector."""
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        found: list[float] = np.random.default_rng(seed).standard_normal(384).tolist()
        return found

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return [self.embed_query(text) for text in texts]


def timed(action: Callable[[str], object], queries: list[str]) -> dict[str, float]:
    """The median and the 95th percentile of one call each."""
    times = []
    for query in queries:
        start = time.perf_counter()
        action(query)
        times.append((time.perf_counter() - start) * 1000)
    return {
        "p50_ms": round(statistics.median(times), 2),
        "p95_ms": round(sorted(times)[int(0.95 * len(times))], 2),
    }


def measure(folder: Path, size: int, queries: int) -> dict[str, Any]:
    """Every figure at one size."""
    chance = random.Random(size)
    texts: dict[str, tuple[str, dict[str, Any]]] = {
        str(n): (" ".join(chance.choices(WORDS, k=60)), {}) for n in range(size)
    }
    asked = [" ".join(chance.choices(WORDS, k=6)) for _ in range(queries)]
    found: dict[str, Any] = {}
    embeddings = Hashed()
    vectors = {query: np.asarray(embeddings.embed_query(query), np.float32) for query in asked}
    with DocumentStore(folder / str(size), embeddings=embeddings) as store:
        store.add_texts(texts)
        parts: Any = store
        for query in asked:
            parts._embedder.embed_query(query)  # the embedder's time is not the index's
        for mode in MODES:
            options = SearchOptions(k=4, mode=mode)
            store.search(asked[0], options)
            found[f"chroma {mode}"] = timed(lambda q, o=options: store.search(q, o), asked)  # type: ignore[misc]
        matrix = parts._nearest.exact()._matrix[:size]
    with DocumentStore(folder / str(size), embeddings=embeddings, index="exact") as store:
        start = time.perf_counter()
        store.search(asked[0], SearchOptions(mode="dense"))
        found["exact load_ms"] = round((time.perf_counter() - start) * 1000, 1)
        for mode in (MODES[0], MODES[2]):
            options = SearchOptions(k=4, mode=mode)
            found[f"exact {mode}"] = timed(lambda q, o=options: store.search(q, o), asked)  # type: ignore[misc]
    found["numpy"] = timed(lambda q: np.argpartition(-(matrix @ vectors[q]), 4)[:4], asked)
    found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=50)
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            found[size] = measure(Path(temporary), size, chosen.queries)
            for name, figures in found[size].items():
                print(f"{size:>7} {name:16} {figures}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
