"""Print search quality on Cranfield and on questions about the PEPs, against plain reciprocal rank fusion.

    python benchmarks/retrieval_quality.py --data PATH [--half tune|report|both] [--store DIR]

The measures are nDCG@10 on Cranfield, and the evidence in the top 4 and the top 10 chunks for the PEPs. Items
whose id has an even crc32 are for tuning, the others report. The baseline is fusion by reciprocal rank
without feedback, paired on the same items. Prints a table with 95 % bootstrap intervals, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chains.retrieval import DocumentStore, Fusion, Hit, SearchOptions
from chains.retrieval.search import Searcher, SearchMode

PLAIN = Fusion(method="rrf", dense_weight=0.5, feedback=0.0)


def half_of(name: object) -> str:
    """Return the half that an item belongs to."""
    return "report" if zlib.crc32(str(name).encode()) % 2 else "tune"


def interval(values: Sequence[float], rounds: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean."""
    chance = random.Random(0)
    means = sorted(sum(chance.choices(values, k=len(values))) / len(values) for _ in range(rounds))
    return means[int(0.025 * rounds)], means[int(0.975 * rounds)]


def cranfield_store(data: Path, folder: Path) -> DocumentStore:
    """Return a store of the abstracts, one file each."""
    docs = folder / "cranfield"
    docs.mkdir(parents=True, exist_ok=True)
    for line in (data / "cranfield" / "docs.jsonl").read_text().splitlines():
        entry = json.loads(line)
        (docs / f"{entry['id']}.md").write_text(f"# {entry['title']}\n\n{entry['text']}\n")
    store = DocumentStore(folder / "cranfield-store", index="exact")
    print(store.ingest(docs).summary())
    return store


def peps_store(data: Path, folder: Path) -> DocumentStore:
    """Return a store of the PEPs."""
    store = DocumentStore(folder / "peps-store", index="exact")
    print(store.ingest(data / "peps").summary())
    return store


def ndcg(hits: Sequence[Hit], relevant: set[str]) -> float:
    """Return nDCG@10 over documents at their best chunk, binary gains (Jarvelin and Kekalainen 2002)."""
    ranked = list(dict.fromkeys(Path(hit.chunk.source).stem for hit in hits))[:10]
    gain = sum(1 / math.log2(place + 2) for place, name in enumerate(ranked) if name in relevant)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(10, len(relevant))))


def collapsed(text: str) -> str:
    """Return the text with all white space as single spaces."""
    return " ".join(text.split())


def holds(hits: Sequence[Hit], source: str, evidence: str) -> float:
    """Return 1 if a chunk of the right file contains the evidence, else 0."""
    return float(any(Path(h.chunk.source).name == source and evidence in collapsed(h.text) for h in hits))


def searched(
    store: DocumentStore, fusion: Fusion | None, mode: SearchMode
) -> Callable[[str, int], list[Hit]]:
    """Return one system as a function of a query and a number of chunks."""
    parts: Any = store
    searcher = Searcher(parts._manifest, parts._nearest, parts._embedder, fusion)
    return lambda query, k: searcher.search(query, SearchOptions(k=k, mode=mode))


SYSTEMS: dict[str, tuple[Fusion | None, SearchMode]] = {
    "dense": (None, "dense"),
    "keyword": (None, "keyword"),
    "plain fusion": (PLAIN, "hybrid"),
    "hybrid": (None, "hybrid"),
}


def measure(data: Path, folder: Path, half: str) -> dict[str, dict[str, list[float]]]:
    """Return one value per item, by system and measure."""
    queries = json.loads((data / "cranfield" / "queries.json").read_text())
    queries = [q for q in queries if half in ("both", half_of(q["id"]))]
    lines = (data / "peps_questions.jsonl").read_text().splitlines()
    questions = [q for q in map(json.loads, lines) if q["answerable"] and half in ("both", half_of(q["id"]))]
    found: dict[str, dict[str, list[float]]] = {}
    with cranfield_store(data, folder) as cranfield, peps_store(data, folder) as peps:
        for name, (fusion, mode) in SYSTEMS.items():
            search = searched(cranfield, fusion, mode)
            values = [ndcg(search(q["text"], 40), {str(one) for one in q["relevant"]}) for q in queries]
            search = searched(peps, fusion, mode)
            tops = [(q, search(q["question"], 10)) for q in questions]
            found[name] = {
                "cranfield nDCG@10": values,
                "PEPs top 4": [holds(hits[:4], q["source"], collapsed(q["evidence"])) for q, hits in tops],
                "PEPs top 10": [holds(hits, q["source"], collapsed(q["evidence"])) for q, hits in tops],
            }
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--half", choices=["tune", "report", "both"], default="tune")
    parser.add_argument("--store", type=Path, help="keep the stores in this folder for the next run")
    chosen = parser.parse_args()
    if not (chosen.data / "peps_questions.jsonl").is_file():
        raise SystemExit(
            f"expected peps_questions.jsonl in {str(chosen.data)!r}, found none; pass its folder as --data"
        )
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(chosen.data, chosen.store or Path(temporary), chosen.half)
    summary: dict[str, Any] = {"half": chosen.half}
    for name, measures in found.items():
        for what, values in measures.items():
            low, high = interval(values)
            gains = [ours - theirs for ours, theirs in zip(values, found["plain fusion"][what], strict=True)]
            gain = sum(gains) / len(gains)
            mean = sum(values) / len(values)
            figures = f"{mean:.3f}  [{low:.3f}, {high:.3f}]  {gain:+.3f} to plain"
            print(f"{name:14} {what:18} {figures}  n={len(values)}")
            summary[f"{name} {what}"] = [round(v, 3) for v in (mean, low, high, gain)]
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
