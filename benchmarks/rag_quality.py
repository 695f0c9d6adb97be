"""Print how good answers about the PEPs are, against free generation from the same chunks.

    python benchmarks/rag_quality.py --data PATH [--limit N] [--half tune] [--rows FILE] [--free]
    python benchmarks/rag_quality.py --data PATH --questions benchmarks/peps_dev.jsonl

The figures are: evidence found, answers that contain an accepted answer, and questions that the documents do
not answer told apart from those that they do. There are two baselines on the same questions: free generation
(--free), and the length of the question for near misses. The half of the questions whose id has an odd crc32
only reports. The second set of questions was written after all weights were chosen and has decided nothing
since, so both of its halves report.

`first_s` is the time from the question to the first checked sentence, including the search; `within_20_s` is
the share of questions for which that took at most 20 s. With --rows a run that was stopped continues where it
was. Prints a table of both halves with 95 % bootstrap intervals, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from chains.rag import Answer, rag_chain
from chains.retrieval import DocumentStore
from llms import ChatLocal
from llms.threads import configure_threads

ROUNDS = 2000


def flat(text: str) -> str:
    """Return the text with white space and case folded."""
    return " ".join(text.split()).casefold()


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % bootstrap interval."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return "-"
    means = np.random.default_rng(0).choice(array, (ROUNDS, len(array))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{array.mean():.2f} [{low:.2f}, {high:.2f}]"


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return the area under the ROC curve: how often a good score is above a bad one."""
    a, b = np.asarray(good)[:, None], np.asarray(bad)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def balanced(good: Sequence[float], bad: Sequence[float], threshold: float) -> float:
    """Return the balanced accuracy at `threshold`."""
    return float((np.mean(np.asarray(good) >= threshold) + np.mean(np.asarray(bad) < threshold)) / 2)


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return the threshold with the best balanced accuracy."""
    return max([*good, *bad], key=lambda one: balanced(good, bad, one))


def length_matched(
    good: list[dict[str, Any]], bad: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pair each near miss with the unused answerable question nearest in length."""
    left, pairs = list(good), []
    for miss in sorted(bad, key=lambda one: -len(one["question"])):
        if left:
            near = min(left, key=lambda one: abs(len(one["question"]) - len(miss["question"])))
            left.remove(near)
            pairs.append((near, miss))
    return pairs


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def half(identity: str) -> str:
    """Return the half that an id belongs to."""
    return "report" if zlib.crc32(identity.encode()) % 2 else "tune"


def measure(
    store: DocumentStore, llm: ChatLocal, asked: list[dict[str, Any]], free: bool, kept: Path | None
) -> list[dict[str, Any]]:
    """Return a row for each question; rows in the file `kept` are not measured again."""
    chain = rag_chain(llm, store.retriever(k=4), embeddings=store.embeddings, threshold=-1.0)
    wide = store.retriever(k=10)
    wanted = {item["id"] for item in asked}
    found = [row for row in rows_of(kept) if row["id"] in wanted] if kept and kept.exists() else []
    known = {row["id"] for row in found}
    for place, item in enumerate(asked, 1):
        if item["id"] in known:
            continue
        hits = wide.invoke(item["question"])
        row = {**item, "cosine": max(float(one.metadata["cosine"]) for one in hits), "half": half(item["id"])}
        if item["answerable"]:
            if evidence := flat(item.get("evidence", "")):
                ranks = [at for at, one in enumerate(hits) if evidence in flat(one.page_content)]
                row |= {"at4": bool(ranks and ranks[0] < 4), "at10": bool(ranks)}
            row |= answered(chain, store, item)
            if free:
                row["free"] = held(generated(llm, hits[:4], item["question"]), item)
        found.append(row)
        if kept:
            with kept.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        print(f"\r{place}/{len(asked)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def answered(chain: Any, store: DocumentStore, item: dict[str, Any]) -> dict[str, Any]:
    """Stream one answer, time its first sentence, and check each citation word for word."""
    start = time.perf_counter()
    first = None
    answer: Answer | None = None
    for piece in chain.stream(item["question"]):
        first = first if first is not None else time.perf_counter() - start
        answer = piece if isinstance(piece, Answer) else answer
    assert answer is not None
    quotes = [one.quote for one in answer.citations]
    verbatim = [store.text(one.source, one.start or 0, one.end) == one.quote for one in answer.citations]
    return {
        "one": held(quotes[0] if quotes else "", item),
        "three": held("\n".join(quotes), item),
        "verbatim": all(verbatim),
        "first_s": first,
    }


def held(text: str, item: dict[str, Any]) -> bool:
    """Return whether an accepted answer occurs in `text`."""
    return any(flat(one) in flat(text) for one in item["answers"])


def generated(llm: ChatLocal, hits: Sequence[Any], question: str) -> str:
    """Return the baseline's answer, which the model writes freely from the same chunks."""
    told = "\n\n".join(one.page_content for one in hits)
    prompt = f"Answer the question from the text.\n\n{told}\n\nQuestion: {question}"
    return str(llm.invoke(prompt, max_tokens=64, temperature=0).text)


def off_corpus(store: DocumentStore, data: Path, limit: int) -> list[tuple[str, float]]:
    """Return the best cosine of questions on other subjects: bank customers' messages, Cranfield queries."""
    texts = [row["text"] for row in rows_of(data / "banking_intents.jsonl")][:limit]
    queries = json.loads((data / "cranfield" / "queries.json").read_text(encoding="utf-8"))
    rows = queries.values() if isinstance(queries, dict) else queries
    texts += [
        str(one.get("text") or one.get("query")) if isinstance(one, dict) else str(one) for one in rows
    ][:limit]
    return [(text, store.best_score(text)) for text in texts]


def report(rows: list[dict[str, Any]], others: list[tuple[str, float]]) -> dict[str, Any]:
    """Print the table and return the figures."""
    figures: dict[str, Any] = {}
    print(f"{'':34}{'tune':>24}{'report':>24}")

    def line(name: str, of: Callable[[dict[str, Any]], Any], kind: Callable[[dict[str, Any]], bool]) -> None:
        cells = []
        for one in ("tune", "report"):
            values = [float(of(row)) for row in rows if row["half"] == one and kind(row)]
            cells.append(interval(values))
            figures.setdefault(name, {})[one] = round(float(np.mean(values)), 3) if values else None
        print(f"{name:34}{cells[0]:>24}{cells[1]:>24}")

    good = [row for row in rows if row["answerable"]]
    for name in ("at4", "at10", "one", "three", "verbatim", "free"):
        if good and name in good[0]:
            line(name, itemgetter(name), itemgetter("answerable"))
    line("first_s", itemgetter("first_s"), itemgetter("answerable"))
    line("within_20_s", lambda row: row["first_s"] <= 20, itemgetter("answerable"))
    figures |= refusals(rows, others)
    return figures


def refusals(rows: list[dict[str, Any]], others: list[tuple[str, float]]) -> dict[str, Any]:
    """Return how well the best cosine separates off-corpus questions and near misses from answerable ones."""
    found: dict[str, Any] = {}
    for one in ("tune", "report"):
        good = [row for row in rows if row["answerable"] and row["half"] == one]
        bad = [row for row in rows if not row["answerable"] and row["half"] == one]
        off = [score for text, score in others if half(text) == one]
        if not good:
            continue
        cosines = [row["cosine"] for row in good]
        pairs = length_matched(good, bad)
        told = {
            "off_corpus_auc": round(auc(cosines, off), 3) if off else None,
            "least_answerable": round(min(cosines), 3),
            "off_corpus_max": round(max(off), 3) if off else None,
            "answerable_kept_at_default": round(float(np.mean(np.asarray(cosines) >= 0.35)), 3),
            "off_corpus_refused_at_default": round(float(np.mean(np.asarray(off) < 0.35)), 3)
            if off
            else None,
        }
        if pairs:
            right, wrong = [a["cosine"] for a, _ in pairs], [b["cosine"] for _, b in pairs]
            lengths = [[float(len(p[side]["question"])) for p in pairs] for side in (0, 1)]
            threshold = best_threshold(right, wrong)
            told["near_miss_auc"] = round(auc(right, wrong), 3)
            told["near_miss_balanced"] = round(balanced(right, wrong, threshold), 3)
            told["near_miss_auc_by_length_only"] = round(auc(*lengths), 3)
        print(f"{one}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
        found[f"refusals_{one}"] = told
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with peps/ and peps_questions.jsonl")
    parser.add_argument("--limit", type=int, default=10_000, help="number of questions of each kind at most")
    parser.add_argument("--free", action="store_true", help="also measure free generation (slow)")
    parser.add_argument("--store", type=Path, help="keep the store in this folder")
    parser.add_argument("--half", choices=["tune", "report", "both"], default="both")
    parser.add_argument("--questions", type=Path, help="another set of questions about the same documents")
    parser.add_argument("--rows", type=Path, help="keep rows in this file and skip those that it has")
    options = parser.parse_args()
    questions = options.questions or options.data / "peps_questions.jsonl"
    if not questions.exists():
        sys.exit(f"expected questions in {str(questions)!r}, found no file: pass their folder as --data")
    asked = rows_of(questions)
    asked = [
        one
        for kind in (True, False)
        for one in [q for q in asked if q["answerable"] is kind][: options.limit]
        if options.half in ("both", half(one["id"]))
    ]
    with tempfile.TemporaryDirectory() as folder, DocumentStore(options.store or Path(folder)) as store:
        store.ingest([options.data / "peps"])
        llm = ChatLocal(model="smollm2-135m", temperature=0)
        rows = measure(store, llm, asked, options.free, options.rows)
        figures = report(rows, off_corpus(store, options.data, options.limit))
    print(json.dumps({"benchmark": "rag_quality", **figures}))


if __name__ == "__main__":
    configure_threads()
    main()
