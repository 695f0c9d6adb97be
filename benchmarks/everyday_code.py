"""Print how many everyday requests code_chain solves, against the first version that the model writes.

    python benchmarks/everyday_code.py [--half tuning|reporting] [--repairs 2] [--model smollm2-135m] [--show]

everyday_code.jsonl has 45 requests for small functions, written for this benchmark. Each has one to three
examples that the chain sees, and further expressions that it does not. `verified` is the chain's claim that
the examples pass, `solved` means that the hidden expressions pass too, and `first` is the same for the first
version. The reporting half is chosen by hash among the requests that nobody looked at while the chain was
changed (their ids begin with "day"); use it at the end only. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from pathlib import Path
from typing import Any

from chains.code import CodeResult, code_chain
from llms import ChatLocal
from llms.threads import configure_threads
from sandbox import Limits, Sandbox

REQUESTS = Path(__file__).with_name("everyday_code.jsonl")
BOX = Sandbox(Limits(wall_s=10, cpu_s=8))


def _requests(half: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in REQUESTS.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if _reports(row["id"]) == (half == "reporting")]


def _reports(name: str) -> bool:
    return name.startswith("day") and zlib.crc32(name.encode()) % 2 == 1


def _holds(code: str, expressions: list[str]) -> bool:
    checks = "\n".join(f"assert {one}" for one in expressions)
    return bool(code) and BOX.run(f"{code}\n{checks}\nprint('all held')\n").stdout.endswith("all held\n")


def _one(chain: Any, row: dict[str, Any]) -> dict[str, Any]:
    result: CodeResult = chain.invoke({"request": row["request"], "examples": row["examples"]})
    asked = [*row["examples"], *row["hidden"]]
    return {
        "verified": result.verified,
        "solved": _holds(result.code, asked),
        "first": _holds(result.runs[0].code, asked),
        "false_claim": result.verified and not _holds(result.code, row["examples"]),
        "versions": len(result.runs),
        "result": result,
    }


def _interval(values: list[bool]) -> tuple[float, float]:
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(2000))
    return means[49], means[1949]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=("tuning", "reporting"), default="tuning")
    parser.add_argument("--repairs", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--show", action="store_true", help="print every version of the requests that fail")
    options = parser.parse_args()
    model = ChatLocal(model=options.model, temperature=0, max_tokens=160)
    chain = code_chain(model, BOX.run, repairs=options.repairs)
    rows = []
    for asked in _requests(options.half):
        rows.append(row := _one(chain, asked))
        if options.show and not row["solved"]:
            print(f"# {asked['request']}\n{row['result'].explanation}")
            print("\n".join(f"## {run.attempt}\n{run.code}" for run in row["result"].runs))
    figures: dict[str, Any] = {"benchmark": "everyday_code", "half": options.half, "requests": len(rows)}
    for name in ("first", "verified", "solved", "false_claim"):
        values = [bool(row[name]) for row in rows]
        figures[name] = sum(values) / len(values)
        low, high = _interval(values)
        print(f"{name:12} {figures[name]:6.3f}  [{low:.3f}, {high:.3f}]")
    figures["versions"] = sum(row["versions"] for row in rows)
    print(json.dumps(figures))


if __name__ == "__main__":
    configure_threads()
    main()
