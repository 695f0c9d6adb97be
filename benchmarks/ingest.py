"""Print the speed of ingesting documents, against raw sentence-transformers on the same chunks.

    python benchmarks/ingest.py [--chunks 400] [--files 10000] [--growth 20000]

The ratio is the median over alternating runs of `store.ingest` (including parsing, splitting, SQLite and
Chroma) and `SentenceTransformer.encode` of the same chunks with the same weights, in one process.
`share_embedding` is the share of an ingest that the store's own encoder takes. The time to ingest unchanged
files again and the time per document as a store grows are printed too. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval import DocumentStore, default_embeddings
from chains.retrieval.document import ParsedDocument
from chains.retrieval.embedder import Embedder, default_model_dir
from chains.retrieval.parsers import parse
from chains.retrieval.splitter import Splitter

WORDS = [
    f"{a}{b}" for a in ("wa", "ri", "to", "mel", "sun", "har") for b in ("ter", "ver", "bor", "low", "gate")
]


class Free(Embeddings):
    """An embedder that costs nothing, so that only the store's own cost is measured."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a random vector for each text."""
        found: list[list[float]] = (
            np.random.default_rng(len(texts)).standard_normal((len(texts), 384)).tolist()
        )
        return found

    def embed_query(self, text: str) -> list[float]:
        """Return a random vector."""
        found: list[float] = np.random.default_rng(0).standard_normal(384).tolist()
        return found


def prose(chance: random.Random, words: int) -> str:
    """Return lines of random words."""
    lines = [" ".join(chance.choices(WORDS, k=14)) + "." for _ in range(max(1, words // 14))]
    return "\n".join(lines)


def texts_of(docs: Path, embedder: Embedder) -> list[str]:
    """Return the chunks of all documents, as they are embedded."""
    splitter = Splitter(embedder.spans)
    found = []
    for path in sorted(docs.iterdir()):
        answer = parse({"name": str(path), "data": path.read_bytes(), "kind": "markdown"})
        found += [chunk.embedded_text for chunk in splitter.split(ParsedDocument.from_payload(answer))]
    return found


def throughput(folder: Path, chunks: int, rounds: int = 3) -> dict[str, float]:
    """Return chunks per second of the raw encoder, and the medians of the paired ratios."""
    from sentence_transformers import SentenceTransformer

    chance = random.Random(1)
    docs = folder / "docs"
    docs.mkdir()
    embeddings = default_embeddings()
    for number in range(max(1, chunks // 8)):
        parts = [f"## Part {n}\n\n{prose(chance, chance.randrange(30, 220))}" for n in range(8)]
        (docs / f"{number}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(parts))
    texts = texts_of(docs, Embedder(embeddings))
    client: Any = SentenceTransformer(str(default_model_dir()), device="cpu")
    client.encode(texts[:16])
    embeddings.embed_documents(texts[:16])
    with DocumentStore(folder / "warm", embeddings=embeddings) as store:
        store.ingest(next(docs.iterdir()))  # imports, which happen once, do not belong to the rate
    ratios, raw_rates, shares = [], [], []
    for number in range(rounds):
        start = time.perf_counter()
        client.encode([text.replace("\n", " ") for text in texts], batch_size=32, normalize_embeddings=True)
        raw = time.perf_counter() - start
        start = time.perf_counter()
        embeddings.embed_documents(texts)
        alone = time.perf_counter() - start
        with DocumentStore(folder / f"store{number}", embeddings=embeddings) as store:
            start = time.perf_counter()
            report = store.ingest(docs)
            ours = time.perf_counter() - start
        assert report.embedded == len(set(texts)), (report.embedded, len(set(texts)))
        ratios.append(raw / ours)
        shares.append(alone / ours)
        raw_rates.append(len(texts) / raw)
    return {
        "chunks": len(texts),
        "raw_chunks_per_s": round(statistics.median(raw_rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "share_embedding": round(statistics.median(shares), 3),
    }


def unchanged(folder: Path, files: int) -> dict[str, float]:
    """Return the seconds of a first and a second ingest of many small files."""
    docs = folder / "many"
    docs.mkdir()
    for number in range(files):
        (docs / f"{number}.txt").write_text(f"File {number} says {number * 7}.")
    time.sleep(2.1)  # the store trusts modification times older than 2 s
    with DocumentStore(folder / "many-store", embeddings=Free(), index="exact") as store:
        start = time.perf_counter()
        store.ingest(docs)
        first = time.perf_counter() - start
        start = time.perf_counter()
        assert len(store.ingest(docs).unchanged) == files
        again = time.perf_counter() - start
    return {"files": files, "first_s": round(first, 2), "unchanged_s": round(again, 2)}


def growth(folder: Path, total: int) -> dict[str, Any]:
    """Return the mean milliseconds per document of 10 chunks at 1 %, 10 % and 100 % of `total` chunks."""
    chance = random.Random(2)
    costs = {}
    with DocumentStore(folder / "grown", embeddings=Free()) as store:
        for size in (total // 100, total // 10, total):
            missing = size - store.stats()["chunks"]
            ids: dict[str, tuple[str, dict[str, Any]]] = {
                str(chance.random()): (prose(chance, 20), {}) for _ in range(max(0, missing))
            }
            store.add_texts(ids)
            path = folder / "one.md"
            times = []
            for number in range(60):  # enough documents for Chroma to be written several times
                path.write_text("\n\n".join(f"# H{number}{n}\n\n{prose(chance, 90)}" for n in range(10)))
                start = time.perf_counter()
                store.ingest(path)
                times.append((time.perf_counter() - start) * 1000)
            costs[size] = round(statistics.mean(times), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"ms_per_document_at": costs, "peak_rss_mib": peak}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--growth", type=int, default=20_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = {
            "throughput": throughput(folder, chosen.chunks),
            "unchanged": unchanged(folder, chosen.files),
            "growth": growth(folder, chosen.growth),
        }
    for name, figures in found.items():
        print(f"{name:12} {figures}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
