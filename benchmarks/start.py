"""How fast the command line starts: python benchmarks/start.py [--runs N].

Measures `--help` and the time to the first progress line, the first token and the end of `ask` over the
handbook in examples/docs, each as a fresh process. Baselines in the same run: a bare interpreter, and one
that imports torch and transformers, below which no answer of a local model can begin.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
AGENT = [sys.executable, "-m", "agent"]
QUESTION = "What does double quantization save?"


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds to the first byte on stderr, the first on stdout, and the end."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=ROOT,
    )
    assert child.stdout is not None and child.stderr is not None
    marks: dict[str, float] = {}
    import selectors

    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, "first token")
        selector.register(child.stderr, selectors.EVENT_READ, "progress")
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if data:
                    marks.setdefault(key.data, time.perf_counter() - started)
                else:
                    selector.unregister(key.fileobj)
    if child.wait() != 0:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return {**marks, "end": time.perf_counter() - started}


def main() -> None:
    """Print a table of medians, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AGENT_HOME": home}
        environment.setdefault("AGENT_CACHE_DIR", "platform")
        timed([*AGENT, "ingest", "examples/docs"], environment)
        commands = {
            "bare python": [sys.executable, "-c", ""],
            "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
            "--help": [*AGENT, "--help"],
            "ask --docs (answered)": [*AGENT, "ask", "--docs", "examples/docs", QUESTION],
            "ask --no-docs --no-tools": [
                *AGENT,
                "ask",
                "--no-docs",
                "--no-tools",
                "--max-tokens",
                "8",
                "Say hello.",
            ],
        }
        report: dict[str, dict[str, float]] = {}
        print(f"{'command':28} {'progress s':>10} {'token s':>8} {'end s':>7}   of torch import")
        for name, command in commands.items():
            rows = [timed(command, environment) for _ in range(args.runs)]
            keys = {key for row in rows for key in row}
            report[name] = {k: round(statistics.median(row[k] for row in rows if k in row), 3) for k in keys}
            torch = report.get("import torch, transformers", {}).get("end")
            ratio = f"{report[name]['end'] / torch:.2f}x" if torch else ""
            shown = [
                f"{report[name][k]:.2f}" if k in report[name] else ""
                for k in ("progress", "first token", "end")
            ]
            print(f"{name:28} {shown[0]:>10} {shown[1]:>8} {shown[2]:>7}   {ratio}")
    print(json.dumps({"benchmark": "start", **report}))


if __name__ == "__main__":
    main()
