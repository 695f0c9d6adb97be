"""Print search latency and memory of both indexes at 1k, 10k and 100k chunks, against numpy brute force.

    python benchmarks/search.py [--sizes 1000 10000 100000] [--queries 50]

Vectors are random directions of 384 dimensions and texts are random words, so that the figures are those of
the store and not of an embedder. Each index is searched in a process of its own, so that its memory can be
told apart. `first_ms` is the first search after opening; `rss_mib` is the peak memory of the process minus
that of a process that searches an empty store. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval import DocumentStore, SearchOptions
from chains.retrieval.chroma import IndexKind
from chains.retrieval.search import SearchMode

WORDS = [f"word{n}" for n in range(5000)]
MODES: tuple[SearchMode, ...] = ("dense", "keyword", "hybrid")
KINDS: tuple[IndexKind, ...] = ("exact", "chroma")
DIMENSION = 384


class Hashed(Embeddings):
    """Returns a random direction for each text, the same one every time."""

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one text."""
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        found: list[float] = np.random.default_rng(seed).standard_normal(DIMENSION).tolist()
        return found

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of several texts."""
        return [self.embed_query(text) for text in texts]


def timed(action: Callable[[str], object], queries: list[str]) -> dict[str, float]:
    """Return the median and the 95th percentile of the time per query."""
    times = []
    for query in queries:
        start = time.perf_counter()
        action(query)
        times.append((time.perf_counter() - start) * 1000)
    return {
        "p50_ms": round(statistics.median(times), 2),
        "p95_ms": round(sorted(times)[int(0.95 * len(times))], 2),
    }


def queries_of(count: int) -> list[str]:
    """Return queries, the same ones in every process."""
    chance = random.Random(7)
    return [" ".join(chance.choices(WORDS, k=6)) for _ in range(count)]


def searched(store: DocumentStore, options: SearchOptions, query: str) -> object:
    """Search once."""
    return store.search(query, options)


def peak_kib() -> int:
    """Return this process's peak memory. getrusage would return its parent's, if that was higher."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def asked(folder: Path, kind: IndexKind, count: int) -> dict[str, Any]:
    """Return the figures of one index, measured in this process."""
    import chromadb  # its import does not belong to a search

    assert chromadb
    queries = queries_of(count)
    found: dict[str, Any] = {}
    with DocumentStore(folder, embeddings=Hashed(), index=kind) as store:
        parts: Any = store
        for query in queries:
            parts._embedder.embed_query(query)  # cached, so that no search includes it
        start = time.perf_counter()
        store.search(queries[0], SearchOptions(mode="dense"))
        found["first_ms"] = round((time.perf_counter() - start) * 1000, 1)
        for mode in MODES:
            options = SearchOptions(k=4, mode=mode)
            found[mode] = timed(partial(searched, store, options), queries)
        few = SearchOptions(k=4, filter={"part": 3})
        found["hybrid, filtered to a tenth"] = timed(partial(searched, store, few), queries)
    found["rss_mib"] = peak_kib() // 1024
    return found


def in_child(folder: Path, kind: IndexKind, count: int) -> dict[str, Any]:
    """Run `asked` in a process of its own."""
    command = [sys.executable, __file__, "--ask", str(folder), kind, "--queries", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def built(folder: Path, size: int) -> float:
    """Make a store of `size` chunks; return the seconds, including the embedder's hashes."""
    chance = random.Random(size)
    start = time.perf_counter()
    with DocumentStore(folder, embeddings=Hashed()) as store:
        for first in range(0, size, 10_000):
            numbers = range(first, min(size, first + 10_000))
            store.add_texts(
                {str(n): (" ".join(chance.choices(WORDS, k=60)), {"part": n % 10}) for n in numbers}
            )
    return time.perf_counter() - start


def measure(folder: Path, size: int, count: int) -> dict[str, Any]:
    """Return all figures at one size."""
    found: dict[str, Any] = {"build_s": round(built(folder / str(size), size), 1)}
    queries = queries_of(count)
    matrix = np.random.default_rng(size).standard_normal((size, DIMENSION), dtype=np.float32)
    vectors = {query: np.asarray(Hashed().embed_query(query), np.float32) for query in queries}
    found["numpy"] = timed(lambda q: np.argpartition(-(matrix @ vectors[q]), 4)[:4], queries)
    built(folder / "empty", 0)
    for kind in KINDS:
        empty = in_child(folder / "empty", kind, 1)["rss_mib"]
        found[kind] = in_child(folder / str(size), kind, count)
        found[kind]["rss_mib"] -= empty
        found[kind]["dense to numpy"] = round(found[kind]["dense"]["p50_ms"] / found["numpy"]["p50_ms"], 2)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--ask", nargs=2, metavar=("STORE", "INDEX"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ask:
        print(json.dumps(asked(Path(chosen.ask[0]), chosen.ask[1], chosen.queries)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            found[size] = measure(Path(temporary), size, chosen.queries)
            print(f"{size:>7} build {found[size]['build_s']} s, numpy {found[size]['numpy']}")
            for kind in KINDS:
                for name, figures in found[size][kind].items():
                    print(f"{size:>7} {kind:6} {name:28} {figures}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
