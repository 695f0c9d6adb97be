"""Print how close summaries come to a document's own abstract, against a lead of the same length.

    python benchmarks/summary_quality.py --data PATH [--sentences 3]

The documents are the PEPs that have an Abstract, without that section. For each half (by crc32 of the file
name; the odd half only reports), the table shows the share of documents whose summary has a higher cosine
(MiniLM) to the abstract than the lead has, the mean cosines, and the numbers and names in the summary that
the source lacks. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from chains.classify.embedder import text_vectors
from chains.retrieval import default_embeddings
from chains.summarize import Style, summarize_chain
from chains.summarize.extract import usable
from chains.summarize.parts import split_parts, without_markup
from chains.summarize.write import unsupported
from chains.text.vectors import unit_vectors

_SECTION = re.compile(r"^([^\n]+)\n([=\-~^\"'`#*+.:_])\2{2,}[ \t]*$", re.MULTILINE)


def without_abstract(text: str) -> tuple[str, str]:
    """Return the text without its Abstract, and the Abstract ("" if it has none)."""
    marks = list(_SECTION.finditer(text))
    for place, mark in enumerate(marks):
        if mark.group(1).strip().casefold() == "abstract":
            end = marks[place + 1].start() if place + 1 < len(marks) else len(text)
            return text[: mark.start()] + text[end:], text[mark.end() : end].strip()
    return text, ""


def lead(text: str, words: int) -> str:
    """Return the first sentences of `text` (not header fields), at least one and at most `words` words."""
    held: list[str] = []
    for sentence in (one for part in split_parts([Document(text)]) for one in part.sentences if usable(one)):
        if held and len(" ".join([*held, sentence.flat]).split()) > words:
            break
        held.append(without_markup(sentence.text))
    return " ".join(held)


def measure(path: Path, embeddings: Embeddings, style: Style) -> dict[str, Any] | None:
    """Summarize one document and compare; None if it has no abstract of 15 words or more."""
    text, abstract = without_abstract(path.read_text(encoding="utf-8"))
    if len(abstract.split()) < 15:
        return None
    start = time.perf_counter()
    found = summarize_chain(None, embeddings=embeddings, style=style).invoke(text)
    seconds = time.perf_counter() - start
    first = lead(text, len(found.text.split()))
    # An abstract may be longer than the embedder's window; the summary and the lead are much shorter.
    own = text_vectors(embeddings, [" ".join(abstract.split())])[0]
    ours, base = unit_vectors(embeddings, [found.text, first])
    missing = [one for sentence in found.sentences for one in unsupported(sentence.text, text)]
    return {
        "name": path.name,
        "half": "report" if zlib.crc32(path.name.encode()) % 2 else "tune",
        "ours": float(ours @ own),
        "lead": float(base @ own),
        "unsupported": len(missing),
        "words": len(found.text.split()),
        "lead_words": len(first.split()),
        "seconds": seconds,
    }


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print both halves and return their figures."""
    figures: dict[str, Any] = {}
    print(f"{'half':8}{'n':>4}{'wins':>22}{'ours':>8}{'lead':>8}{'unsupported':>13}{'words':>7}{'lead':>6}")
    for half in ("tune", "report"):
        some = [row for row in rows if row["half"] == half]
        wins = np.asarray([float(row["ours"] > row["lead"]) for row in some])
        means = np.random.default_rng(0).choice(wins, (2000, len(wins))).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        mean = {
            key: float(np.mean([row[key] for row in some])) for key in ("ours", "lead", "words", "lead_words")
        }
        missing = sum(row["unsupported"] for row in some)
        shown = f"{wins.mean():.2f} [{low:.2f}, {high:.2f}]"
        print(
            f"{half:8}{len(some):4}{shown:>22}{mean['ours']:8.3f}{mean['lead']:8.3f}{missing:13}"
            f"{mean['words']:7.0f}{mean['lead_words']:6.0f}"
        )
        figures[half] = {"n": len(some), "wins": round(float(wins.mean()), 3), "unsupported": missing}
        figures[half] |= {key: round(value, 3) for key, value in mean.items()}
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with peps/")
    parser.add_argument("--sentences", type=int, default=3)
    parser.add_argument("--limit", type=int, default=10_000, help="number of documents at most")
    options = parser.parse_args()
    files = sorted((options.data / "peps").glob("*.rst"))[: options.limit]
    if not files:
        sys.exit(f"expected peps/*.rst in {str(options.data)!r}, found none: pass its folder as --data")
    embeddings = default_embeddings()
    rows = []
    for place, path in enumerate(files, 1):
        row = measure(path, embeddings, Style(sentences=options.sentences))
        rows += [row] if row else []
        print(f"\r{place}/{len(files)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures = report(rows)
    print(json.dumps({"benchmark": "summary_quality", "sentences": options.sentences, **figures}))


if __name__ == "__main__":
    main()
