"""Print how fast the command line starts, against importing torch and against `transformers` alone.

    python benchmarks/start.py [--runs N] [--only NAME ...]

For `--help` and several other commands: the time to the first progress line, to the first token and to the
end, each in a new process, with its processor time. The documents are the handbook in examples/docs.

The baselines, in the same run, are a bare interpreter; one that imports torch, which every answer of a local
model has to do first; one that also imports transformers; and the first token that transformers alone
generates from the same checkpoint. Each round runs all commands, so that a busy machine slows all of them
alike. Ratios are medians over the rounds: the first token (or the end, if there is no token) over importing
torch. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llms.models.catalog import cache_dir
from llms.models.embedded import embedded_checkpoint

ROOT = Path(__file__).parents[1]
AGENT = [sys.executable, "-m", "agent"]
QUESTION = "What does double quantization save?"
TORCH = "import torch"
PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="bfloat16")
turns = [{"role": "user", "content": "Say hello."}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
out = model.generate(**ids, max_new_tokens=1, do_sample=False)
sys.stdout.write(tokenizer.decode(out[0]))
"""


def commands(checkpoint: Path) -> dict[str, list[str]]:
    """Return the timed commands by name."""
    short = ["--no-docs", "--no-tools", "--max-tokens", "8", "Say hello."]
    return {
        "bare python": [sys.executable, "-c", ""],
        TORCH: [sys.executable, "-c", "import torch"],
        "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
        "transformers generate": [sys.executable, "-c", PLAIN, str(checkpoint)],
        "--help": [*AGENT, "--help"],
        "ask --docs (answered)": [*AGENT, "ask", "--docs", "examples/docs", QUESTION],
        "ask --no-docs --no-tools": [*AGENT, "ask", *short],
        "chat --no-docs --no-tools": [*AGENT, "chat", *short],
    }


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Return the seconds to the first byte on stderr, to the first on stdout, to the end, and on the CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
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
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**marks, "end": time.perf_counter() - started, "cpu": cpu}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", default=[], help="parts of names of commands; torch is always timed"
    )
    args = parser.parse_args()
    checkpoint = embedded_checkpoint(cache_dir())
    chosen = {
        name: command
        for name, command in commands(checkpoint).items()
        if not args.only or name == TORCH or any(part in name for part in args.only)
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AGENT_HOME": home, "HF_HUB_OFFLINE": "1"}
        environment.setdefault("AGENT_CACHE_DIR", "platform")
        timed([*AGENT, "ingest", "examples/docs"], environment)
        for _ in range(args.runs):
            for name, command in chosen.items():
                rows[name].append(timed(command, environment))
    print(f"{'command':28} {'progress s':>10} {'token s':>8} {'end s':>7} {'cpu s':>7}   of importing torch")
    report: dict[str, dict[str, float]] = {}
    for name, found in rows.items():
        keys = ("progress", "first token", "end", "cpu")
        report[name] = {
            key: round(statistics.median(row[key] for row in found), 3) for key in keys if key in found[0]
        }
        pairs = zip(found, rows[TORCH], strict=True)
        ratio = statistics.median(row.get("first token", row["end"]) / torch["end"] for row, torch in pairs)
        report[name]["of torch"] = round(ratio, 3)
        shown = [f"{report[name][key]:.2f}" if key in report[name] else "" for key in keys]
        print(f"{name:28} {shown[0]:>10} {shown[1]:>8} {shown[2]:>7} {shown[3]:>7}   {ratio:.2f}x")
    print(json.dumps({"benchmark": "start", **report}))


if __name__ == "__main__":
    main()
