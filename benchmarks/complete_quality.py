"""Lines and blocks cut from the standard library's own files, filled in again.

Per kind of gap: how often the whole parses, how often the original comes back exactly, how much of it is
matched from its start, and how often the fill says something; against a greedy continuation of the same
prefix by the same model, cut to the same number of lines. The cuts are drawn by a fixed seed. Prints a table,
then one JSON line.

    python benchmarks/complete_quality.py [--count 40] [--samples 4]
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


@dataclass(frozen=True)
class Gap:
    """What was cut out, and what stands before and behind it."""

    kind: str
    prefix: str
    original: str
    suffix: str


def functions(path: Path) -> list[tuple[list[str], int, int, int]]:
    """Return (lines, first, first behind the docstring, last) of top-level functions of 5 to 25 lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.end_lineno and 5 <= node.end_lineno - node.lineno <= 25:
            told = ast.get_docstring(node) is not None and len(node.body) > 1
            found.append((lines, node.lineno - 1, node.body[1 if told else 0].lineno - 1, node.end_lineno))
    return found


def cut(lines: Sequence[str], first: int, begin: int, last: int, kind: str, rng: random.Random) -> Gap | None:
    """Cut the end of a line, or the last lines of a block, out of one function."""
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
    """Share of `second` that `first` matches from the start."""
    pairs = zip(first.strip(), second.strip(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(second.strip())


def scored(gap: Gap, fill: str) -> dict[str, float]:
    """Judge one fill; nothing but `pass` counts as not parsing."""
    good = says_something(fill) and parses(gap.prefix + fill + gap.suffix)
    return {
        "parses": float(good),
        "exact": float(fill.strip() == gap.original.strip()),
        "prefix": common(fill, gap.original),
    }


def greedy(llm: LocalLLM, gap: Gap) -> str:
    """The baseline: a plain greedy continuation, cut to the lines that are missing."""
    text = str(llm.invoke(gap.prefix, temperature=0.0))
    count = gap.original.count("\n") + 1
    return "\n".join(text.split("\n")[:count])


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the table and return the figures."""
    figures: dict[str, Any] = {}
    print(f"{'gap':8}{'recipe':10}{'n':>4}{'parses':>9}{'exact':>8}{'prefix':>8}")
    for kind in ("line", "block"):
        for recipe in ("chain", "greedy"):
            some = [row[recipe] for row in rows if row["kind"] == kind]
            mean = {
                key: round(float(np.mean([one[key] for one in some])), 3)
                for key in ("parses", "exact", "prefix")
            }
            print(
                f"{kind:8}{recipe:10}{len(some):4}{mean['parses']:9.3f}{mean['exact']:8.3f}{mean['prefix']:8.3f}"
            )
            figures[f"{kind} {recipe}"] = {"n": len(some), **mean}
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40, help="gaps of each kind")
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    llm = LocalLLM(model="smollm2-135m", temperature=0.0, max_tokens=64)
    chains = {
        kind: complete_chain(
            llm, kind="code", samples=options.samples, max_tokens=64, single_line=kind == "line"
        )
        for kind in ("line", "block")
    }
    rows = []
    drawn = gaps(options.count)
    for place, gap in enumerate(drawn, 1):
        fill = chains[gap.kind].invoke({"prefix": gap.prefix, "suffix": gap.suffix})
        rows.append({"kind": gap.kind, "chain": scored(gap, fill), "greedy": scored(gap, greedy(llm, gap))})
        print(f"\r{place}/{len(drawn)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(json.dumps({"benchmark": "complete_quality", **report(rows)}))


if __name__ == "__main__":
    main()
