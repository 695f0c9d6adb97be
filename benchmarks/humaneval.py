"""Print how much of HumanEval code_chain solves with its repair loop, against its first version.

    python benchmarks/humaneval.py --data PATH [--seeds 3] [--repairs 1] [--limit N] [--rows FILE]
    [--together 8] [--half odd|even|all]

The chain sees only the prompts (signature, docstring and the examples in it). The hidden tests run
afterwards, on the first version (no repair) and on the version that the repair loop chose. The two are paired
by problem and seed and compared by McNemar's exact test. A claim is false if status `examples` fails an
example on a second run. With --rows each answer is kept in FILE, and a run that was stopped continues from
there. Prints a table with 95 % bootstrap intervals, then one JSON line.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chains.code import CodeResult, code_chain
from chains.code.checks import check
from chains.code.request import read_request
from llms import ChatLocal
from llms.threads import configure_threads
from sandbox import Limits, Sandbox

BOX = Sandbox(Limits(wall_s=10, cpu_s=8))


def _problems(data: Path, half: str) -> list[dict[str, Any]]:
    path = data / "humaneval.jsonl"
    if not path.exists():
        sys.exit(f"expected {path}, found nothing there: pass the folder that holds it with --data")
    problems = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if half == "all":
        return problems
    return [one for one in problems if zlib.crc32(one["task_id"].encode()) % 2 == (half == "odd")]


def _hidden(problem: dict[str, Any], code: str) -> bool:
    """Return whether code passes the tests that the chain never saw."""
    program = f"{code}\n{problem['test']}\ncheck({problem['entry_point']})\nprint('all passed')\n"
    return BOX.run(program).stdout.endswith("all passed\n")


def _claim_holds(problem: dict[str, Any], result: CodeResult) -> bool:
    """Return whether the code passes the examples of the prompt when they run once more."""
    request = read_request(problem["prompt"])
    again = check(BOX.run, request, result.code, candidate=0, attempt=0)
    own = {one.check for one in again.checks if one.passed}
    return set(request.checks) <= own


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


def _one(problem: dict[str, Any], seed: int, repairs: int) -> dict[str, Any]:
    model = ChatLocal(temperature=0.2 if seed else 0.0, seed=seed, max_tokens=320)
    result: CodeResult = code_chain(model, BOX.run, repairs=repairs).invoke(problem["prompt"])
    first = result.runs[0].code
    return {
        "id": problem["task_id"],
        "seed": seed,
        "status": result.status,
        "parses": _parses(result.code),
        "first_reply_parses": bool(first),
        "first": bool(first) and _hidden(problem, first),
        "repaired": _hidden(problem, result.code),
        "false_claim": result.status == "examples" and not _claim_holds(problem, result),
        "claim": result.status == "examples",
    }


def _mcnemar(rows: list[dict[str, Any]]) -> float:
    """Return the two-sided exact p-value of the pairs that differ (binomial, p = 1/2)."""
    gained = sum(row["repaired"] and not row["first"] for row in rows)
    lost = sum(row["first"] and not row["repaired"] for row in rows)
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return float(min(1.0, 2 * tail))


def _interval(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a rate; problems are drawn with all their seeds."""
    draw = random.Random(0)
    problems: dict[str, list[bool]] = {}
    for row in rows:
        problems.setdefault(row["id"], []).append(row[name])
    names = list(problems)
    means = []
    for _ in range(2000):
        drawn = [value for one in draw.choices(names, k=len(names)) for value in problems[one]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[49], means[1949]


def _kept(rows: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    if rows is None or not rows.exists():
        return {}
    read = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return {(row["id"], row["seed"]): row for row in read}


def _keep(rows: Path | None, row: dict[str, Any]) -> None:
    line = json.dumps(row) + "\n"
    sys.stderr.write(line)
    sys.stderr.flush()
    if rows is not None:
        with rows.open("a", encoding="utf-8") as file:
            file.write(line)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds humaneval.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repairs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None, help="number of problems at most")
    parser.add_argument(
        "--rows", type=Path, default=None, help="keep answers in this file and skip those that it has"
    )
    parser.add_argument("--together", type=int, default=8, help="number of problems in a batch")
    parser.add_argument("--half", choices=("odd", "even", "all"), default="all")
    options = parser.parse_args()
    problems = _problems(options.data, options.half)[: options.limit]
    kept = _kept(options.rows)

    def answered(one: tuple[int, dict[str, Any]]) -> dict[str, Any]:
        seed, problem = one
        row = kept.get((problem["task_id"], seed))
        if row is None:
            _keep(options.rows, row := _one(problem, seed, options.repairs))
        return row

    asked = [(seed, problem) for seed in range(options.seeds) for problem in problems]
    with ThreadPoolExecutor(options.together) as pool:
        rows = list(pool.map(answered, asked))
    rates = {
        name: sum(row[name] for row in rows) / len(rows)
        for name in rows[0]
        if name not in ("id", "seed", "status")
    }
    for name, rate in rates.items():
        low, high = _interval(rows, name)
        print(f"{name:20} {rate:6.3f}  [{low:.3f}, {high:.3f}]")
    counted = {
        status: sum(row["status"] == status for row in rows) for status in ("examples", "ran", "failed")
    }
    print(f"{len(problems)} problems, {options.seeds} seeds; statuses {counted}")
    figures = {**rates, "mcnemar_p": _mcnemar(rows), "statuses": counted, "pairs": len(rows)}
    print(json.dumps({"benchmark": "humaneval", **figures}))


if __name__ == "__main__":
    configure_threads()
    main()
