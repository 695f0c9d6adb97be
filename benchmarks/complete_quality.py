"""Print how well complete_chain fills gaps in the standard library, against a greedy continuation.

    python benchmarks/complete_quality.py [--model NAME] [--count 40] [--samples 4] [--seed 0] [--rows FILE]

Lines and blocks are cut out of functions of this Python's standard library, with a fixed seed. For each kind
of gap the table shows how often the whole file parses, how often the original comes back exactly, and how
much of the original is matched from its start. The baseline continues the same prefix greedily with the same
model and is cut to the number of missing lines, which the chain is not told. The original is a completion
that parses, so every gap has one. With --rows each judged gap is kept in FILE, and a run that was stopped
continues from there. Prints a table with 95 % bootstrap intervals, then one JSON line.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from chains.complete import complete_chain
from chains.complete.python import parses, says_something
from llms import LocalLLM
from llms.threads import configure_threads


@dataclass(frozen=True)
class Gap:
    """A text that was cut out of a function, and the text before and after it."""

    kind: str
    prefix: str
    original: str
    suffix: str


def functions(path: Path) -> list[tuple[list[str], int, int, int]]:
    """Return (lines, first, first after the docstring, last) of top-level functions of 5 to 25 lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.end_lineno and 5 <= node.end_lineno - node.lineno <= 25:
            told = ast.get_docstring(node) is not None and len(node.body) > 1
            found.append((lines, node.lineno - 1, node.body[1 if told else 0].lineno - 1, node.end_lineno))
    return found


def cut(lines: Sequence[str], first: int, begin: int, last: int, kind: str, rng: random.Random) -> Gap | None:
    """Return a gap made of the end of a line or of a function's last lines; None if none can be made."""
    body = [
        at
        for at in range(begin, last)
        if len(lines[at].strip()) > 8 and not lines[at].strip().startswith("#")
    ]
    if len(body) < 3:
        return None
    at = rng.choice(body[1:])
    if kind == "line":
        line = lines[at].rstrip("\n")
        start = len(line) - len(line.lstrip()) + rng.randint(2, max(2, len(line.strip()) // 2))
        while start < len(line) and line[start - 1] not in " (=,.":
            start += 1
        prefix, original, suffix = (
            "".join(lines[first:at]) + line[:start],
            line[start:],
            "\n" + "".join(lines[at + 1 : last]),
        )
    else:
        prefix, original, suffix = "".join(lines[first:at]), "".join(lines[at:last]).rstrip("\n"), "\n"
    gap = Gap(kind, prefix, original, suffix)
    whole = parses(prefix + original + suffix)
    return gap if whole and says_something(original) and 3 <= len(original) <= 400 else None


def gaps(count: int, seed: int = 0) -> list[Gap]:
    """Return `count` gaps of each kind from the standard library of this Python."""
    rng = random.Random(seed)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    rng.shuffle(files)
    found: list[Gap] = []
    for path in files:
        for lines, first, begin, last in functions(path)[:2]:
            for kind in ("line", "block"):
                gap = cut(lines, first, begin, last, kind, rng)
                if gap and sum(one.kind == kind for one in found) < count:
                    found.append(gap)
        if len(found) >= 2 * count:
            break
    return found


def common(first: str, second: str) -> float:
    """Return the share of `second` that `first` matches from the start."""
    pairs = zip(first.strip(), second.strip(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(second.strip())


def scored(gap: Gap, fill: str) -> dict[str, float]:
    """Judge one fill. A fill that is only `pass` counts as not parsing."""
    good = says_something(fill) and parses(gap.prefix + fill + gap.suffix)
    return {
        "parses": float(good),
        "exact": float(fill.strip() == gap.original.strip()),
        "prefix": common(fill, gap.original),
    }


def greedy(llm: LocalLLM, gap: Gap) -> str:
    """Return the baseline: a greedy continuation, cut to the number of missing lines."""
    count = gap.original.count("\n") + 1
    text = ""
    for piece in llm.stream(gap.prefix, temperature=0.0):
        text += str(piece)
        if text.count("\n") >= count:
            break
    return "\n".join(text.split("\n")[:count])


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the table and return the figures."""
    figures: dict[str, Any] = {}
    print(f"{'gap':8}{'recipe':10}{'n':>4}{'parses':>20}{'exact':>20}{'prefix':>20}")
    for kind in ("line", "block"):
        for recipe in ("chain", "greedy"):
            some = [row[recipe] for row in rows if row["kind"] == kind]
            if not some:
                continue
            told = {key: interval([one[key] for one in some]) for key in ("parses", "exact", "prefix")}
            shown = "".join(
                f"{f'{mean:.3f} [{low:.2f}, {high:.2f}]':>20}" for mean, low, high in told.values()
            )
            print(f"{kind:8}{recipe:10}{len(some):4}{shown}")
            figures[f"{kind} {recipe}"] = {"n": len(some), **told}
    return figures


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval."""
    means = np.random.default_rng(0).choice(np.asarray(values), (2000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(np.mean(values)), 3), round(float(low), 3), round(float(high), 3)


def kept(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows of an earlier run."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m", help="a model of the catalog, or a GGUF file")
    parser.add_argument("--count", type=int, default=40, help="gaps of each kind")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="seed of the cuts")
    parser.add_argument("--rows", type=Path, help="keep judged gaps in this file and skip those that it has")
    options = parser.parse_args()
    llm = LocalLLM(model=options.model, temperature=0.0, max_tokens=64)
    chains = {
        kind: complete_chain(
            llm, kind="code", samples=options.samples, max_tokens=64, single_line=kind == "line"
        )
        for kind in ("line", "block")
    }
    rows = kept(options.rows)
    drawn = gaps(options.count, options.seed)
    for place, gap in enumerate(drawn[len(rows) :], len(rows) + 1):
        fill = chains[gap.kind].invoke({"prefix": gap.prefix, "suffix": gap.suffix})
        base = greedy(llm, gap)
        row = {"kind": gap.kind, "chain": scored(gap, fill), "greedy": scored(gap, base)}
        rows.append(
            {**row, "prefix": gap.prefix[-200:], "original": gap.original, "fill": fill, "base": base}
        )
        if options.rows:
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        print(f"\r{place}/{len(drawn)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(json.dumps({"benchmark": "complete_quality", **report(rows)}))


if __name__ == "__main__":
    configure_threads()
    main()
