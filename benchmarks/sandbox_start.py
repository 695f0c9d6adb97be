"""Print the start time of a sandboxed run on each tier, against a bare interpreter.

    python benchmarks/sandbox_start.py [--runs 200]

The baseline is `subprocess.run([python, "-c", ""])`, alternating with the runs. The growth of the parent's
memory is printed too. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from sandbox import Limits, Sandbox, tier
from sandbox.child import Confinement


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _measure(runs: int) -> dict[str, float]:
    """Return the milliseconds of `runs` pairs, and the growth of the parent's memory in MiB."""
    box = Sandbox(Limits())
    box.run("")
    process = psutil.Process()
    before = process.memory_info().rss
    bare, boxed = [], []
    for _ in range(runs):
        bare.append(_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)))
        boxed.append(_seconds(lambda: box.run("")))
    grown = process.memory_info().rss - before
    return {
        "bare_p50_ms": 1e3 * _percentile(bare, 0.5),
        "bare_p95_ms": 1e3 * _percentile(bare, 0.95),
        "run_p50_ms": 1e3 * _percentile(boxed, 0.5),
        "run_p95_ms": 1e3 * _percentile(boxed, 0.95),
        "ratio_p50": _percentile(boxed, 0.5) / _percentile(bare, 0.5),
        "parent_grew_mib": grown / (1 << 20),
    }


def main() -> None:
    """Measure the tier of this machine, and tier 2 as well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="runs per tier (default 200)")
    runs = parser.parse_args().runs
    first = Sandbox.tier()
    print(f"{first}; {runs} runs each, {os.cpu_count()} CPUs")
    figures = {str(first.number): _measure(runs)}
    if first.number == 1:
        held = Confinement(tier=2)
        tier.current.cache_clear()
        second = tier.Tier(number=2, name="Landlock and seccomp", gaps=(), confinement=held)
        tier.current = lambda: second  # type: ignore[assignment]
        figures["2"] = _measure(runs)
    names = list(next(iter(figures.values())))
    print(f"{'':18}" + "".join(f"tier {number:>5} " for number in figures))
    for name in names:
        print(f"{name:18}" + "".join(f"{figures[number][name]:10.1f} " for number in figures))
    print(json.dumps({"benchmark": "sandbox", "runs": runs, "tiers": figures}))


if __name__ == "__main__":
    main()
