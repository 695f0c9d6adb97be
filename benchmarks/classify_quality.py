"""Print accuracy, calibration and speed of classify_chain on AG News and banking intents, by recipe.

    python benchmarks/classify_quality.py --data PATH [--model] [--speed]

Each recipe is measured on both halves of the texts (by crc32 of the text; the odd half only reports):
accuracy, expected calibration error (10 bins), and accuracy of the 80 % of texts that it is most confident
of, with 95 % bootstrap intervals. Few-shot recipes draw their examples from the tuning half, with 5 seeds.

The baseline of the speed is a loop of transformers' `generate` that writes the label. Chains are made
beforehand, and prefix caches are empty. `own loop` is this package's own generation of the label; `flat` is
the embedder's time with 100 labels over its time with the labels of the set. Prints a table, then one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage

from chains.classify import Classification, classify_chain
from chains.retrieval import default_embeddings

SETS = ("ag_news", "banking_intents")
Rows = list[dict[str, str]]


class Remembered(Embeddings):
    """Embeds each text once, because the recipes share their texts."""

    def __init__(self, inner: Embeddings) -> None:
        """Keep the embedder."""
        self._inner = inner
        self._known: dict[str, list[float]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed the texts that are not known yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known |= dict(zip(new, self._inner.embed_documents(new), strict=True)) if new else {}
        return [self._known[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Embed one text."""
        return self.embed_documents([text])[0]


def read(path: Path) -> tuple[Rows, Rows, list[str]]:
    """Return the tuning half, the reporting half, and the labels."""
    rows: Rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    odd = [row for row in rows if zlib.crc32(row["text"].encode()) % 2]
    even = [row for row in rows if not zlib.crc32(row["text"].encode()) % 2]
    return even, odd, sorted({row["label"] for row in rows})


def calibration_error(sure: Any, right: Any, bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins of confidence (Guo et al. 2017)."""
    good = np.asarray(right, dtype=float)
    places = np.minimum((sure * bins).astype(int), bins - 1)
    total = 0.0
    for place in range(bins):
        some = places == place
        if some.any():
            total += some.mean() * abs(good[some].mean() - sure[some].mean())
    return float(total)


def figures(rows: Rows, found: Sequence[Classification]) -> dict[str, float]:
    """Return accuracy, calibration error and accuracy at 80 % coverage, with intervals (_low, _high)."""
    right = np.asarray([one.label == row["label"] for one, row in zip(found, rows, strict=True)])
    sure = np.asarray([max(one.scores.values()) for one in found])
    drawn = np.random.default_rng(0).integers(0, len(rows), (1000, len(rows)))
    measures: dict[str, Callable[[Any, Any], float]] = {
        "accuracy": lambda sure, right: float(right.mean()),
        "ece": calibration_error,
        "at_80": lambda sure, right: float(
            right[np.argsort(-sure, kind="stable")[: int(0.8 * len(sure))]].mean()
        ),
    }
    told: dict[str, float] = {}
    for name, measure in measures.items():
        low, high = np.percentile([measure(sure[some], right[some]) for some in drawn], [2.5, 97.5])
        told |= {name: measure(sure, right), f"{name}_low": float(low), f"{name}_high": float(high)}
    return {name: round(value, 3) for name, value in told.items()}


def few_shot(even: Rows, odd: Rows, labels: list[str], embeddings: Any, shots: int) -> dict[str, float]:
    """Return the mean figures over five seeds of a regression on `shots` examples per label."""
    runs = []
    for seed in range(5):
        shuffled = random.Random(seed).sample(even, len(even))
        examples = [
            (row["text"], name)
            for name in labels
            for row in [r for r in shuffled if r["label"] == name][:shots]
        ]
        chain = classify_chain(None, labels, embeddings=embeddings, examples=examples)
        runs.append(figures(odd, chain.batch([row["text"] for row in odd])))
    return {key: round(float(np.mean([run[key] for run in runs])), 3) for key in runs[0]}


def speed(rows: Rows, labels: list[str], llm: Any, embeddings: Any) -> dict[str, float]:
    """Return the texts per second of each recipe over those of generating the label, on 16 texts, cold."""
    texts = [row["text"] for row in rows[:16]]
    listed = ", ".join(labels)

    asked = [f"{text}\n\nWhich of these labels fits: {listed}? Reply with the label only." for text in texts]
    runtime = llm.runtime()

    def generate() -> None:
        for one in asked:
            ids = torch.tensor([runtime.prompt_ids([HumanMessage(one)])])
            runtime.loaded.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
            )

    def own_loop() -> None:
        for one in asked:
            llm.invoke(one, max_tokens=12)

    many = [f"matter number {number}" for number in range(100)]
    chains = {
        "model": classify_chain(llm, labels),
        "embedder": classify_chain(None, labels, embeddings=embeddings),
        "embedder, 100 labels": classify_chain(None, many, embeddings=embeddings),
    }
    clear = runtime.engine.clear_cache
    base = timed(generate, clear)
    seconds = {name: timed(partial(chain.batch, texts), clear) for name, chain in chains.items()}
    seconds["own loop"] = timed(own_loop, clear)
    told = {name: round(base / value, 2) for name, value in seconds.items()}
    more = [row["text"] for row in rows[:128]]
    own, many_labels = (
        timed(partial(chains[name].batch, more), clear) for name in ("embedder", "embedder, 100 labels")
    )
    return told | {"flat": round(many_labels / own, 2)}


def timed(run: Callable[[], Any], clear: Callable[[], None]) -> float:
    """Return the seconds of the faster of two runs, after a warm-up; `clear` is called before each."""
    run()
    times = []
    for _ in range(2):
        clear()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with ag_news.jsonl, banking_intents.jsonl"
    )
    parser.add_argument("--model", action="store_true", help="also score with the embedded model")
    parser.add_argument("--speed", action="store_true", help="also measure throughput")
    parser.add_argument("--tune", action="store_true", help="do not run the reporting half")
    options = parser.parse_args()
    if not all((options.data / f"{name}.jsonl").exists() for name in SETS):
        sys.exit(
            f"expected {SETS!r} as .jsonl in {str(options.data)!r}, not found: pass their folder as --data"
        )
    plain = default_embeddings()
    embeddings = Remembered(plain)
    llm = None
    if options.model or options.speed:
        from llms import ChatLocal

        llm = ChatLocal(model="smollm2-135m", temperature=0)
    told: dict[str, Any] = {}
    print(f"{'set':18}{'recipe':28}{'half':8}{'accuracy':>20}{'ECE':>20}{'at 80 %':>20}")
    for name in SETS:
        even, odd, labels = read(options.data / f"{name}.jsonl")
        chains = {
            "embedder": classify_chain(None, labels, embeddings=embeddings),
            "embedder, transductive": classify_chain(None, labels, embeddings=embeddings, transductive=True),
        }
        if options.model:
            chains["model"] = classify_chain(llm, labels)
        for recipe, chain in chains.items():
            for half, rows in (("tune", even), ("report", odd))[: 1 if options.tune else 2]:
                found = figures(rows, chain.batch([row["text"] for row in rows]))
                show(told, name, recipe, half, found)
        for shots in () if options.tune else (1, 8, 16):
            show(told, name, f"{shots} examples", "report", few_shot(even, odd, labels, embeddings, shots))
        if options.speed:
            told[f"{name} speed"] = speed(even, labels, llm, plain)
            print(f"{name:18}speed over that of generating the label: {told[f'{name} speed']}")
    print(json.dumps({"benchmark": "classify_quality", **told}))


def show(told: dict[str, Any], name: str, recipe: str, half: str, found: dict[str, float]) -> None:
    """Print one line and keep its figures."""
    told[f"{name} {recipe} {half}"] = found
    shown = [
        f"{found[key]:.3f} [{found[f'{key}_low']:.2f}, {found[f'{key}_high']:.2f}]"
        for key in ("accuracy", "ece", "at_80")
    ]
    print(f"{name:18}{recipe:28}{half:8}" + "".join(f"{one:>20}" for one in shown), flush=True)


if __name__ == "__main__":
    main()
