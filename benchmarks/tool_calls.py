"""Print how often a small model calls the right tool with the right arguments, scores against the router.

    python benchmarks/tool_calls.py [--half report] [--data PATH]

The cases are hand-written (tests/data/tool_cases.jsonl). The model's own scores and the agent's router are
compared on the same cases. Half of the cases, by hash of the id, only report. `--data PATH` adds the messages
of routing.jsonl: how often the model's own scores decide correctly whether one of this toolkit's tools has to
be called. Prints a table with 95 % bootstrap intervals, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda

from llms import ChatLocal
from llms.small import choose_tool
from llms.threads import configure_threads
from tools import (
    calculator_tool,
    classify_tool,
    read_file_tool,
    run_python_tool,
    search_docs_tool,
    summarize_tool,
    write_code_tool,
)

T = TypeVar("T")
CASES = Path(__file__).parent.parent / "tests" / "data"


def reports(identifier: str) -> bool:
    """Return whether a case belongs to the half that only reports."""
    return zlib.crc32(identifier.encode()) % 2 == 1


def share(values: Sequence[bool]) -> float:
    """Return the share of true values."""
    return sum(values) / len(values)


def interval(rows: Sequence[T], measure: Callable[[Sequence[T]], float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a measure."""
    draw = random.Random(0)
    found = sorted(measure(draw.choices(rows, k=len(rows))) for _ in range(2000))
    return found[50], found[1949]


def router() -> Any:
    """Return the agent's router, which picks tools by their descriptions."""
    from agent.planner.router import Router
    from chains.retrieval import default_embeddings

    return Router(default_embeddings())


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Return whether arguments are equal, apart from case and the types of numbers."""
    return {k: str(v).casefold() for k, v in found.items()} == {
        k: str(v).casefold() for k, v in expected.items()
    }


def run_cases(chat: ChatLocal, cases: list[dict[str, Any]], picker: Any) -> list[tuple[bool, bool]]:
    """Return (right tool, all arguments right) of each case."""
    tools = json.loads((CASES / "tool_cases_tools.json").read_text())
    model = chat.model_copy(update={"tool_picker": picker})
    rows = []
    for case in cases:
        bound = model.bind_tools([tools[name] for name in case["offered"]], tool_choice="any")
        answer = bound.invoke([HumanMessage(case["message"])])
        call = answer.tool_calls[0]
        right = call["name"] == case["tool"]
        rows.append((right, right and same(call["args"], case["args"])))
    return rows


def own_tools() -> list[dict[str, Any]]:
    """Return the names and descriptions of this toolkit's tools, to which the messages' labels refer."""
    unused: Any = RunnableLambda(lambda _: None)  # only the descriptions are read
    made = (
        search_docs_tool(unused),
        write_code_tool(unused),
        run_python_tool(),
        calculator_tool(),
        read_file_tool(()),
        summarize_tool(unused),
        classify_tool(lambda _: unused),
    )
    return [{"function": {"name": tool.name, "description": tool.description}} for tool in made]


def decisions(chat: ChatLocal, folder: Path, halves: Sequence[bool]) -> tuple[list[bool], list[bool]]:
    """Return (needed, decided) for the messages of some halves; the model's scores alone decide."""
    tools = own_tools()
    needed, decided = [], []
    for line in (folder / "routing.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if reports(item["id"]) in halves:
            needed.append(bool(item["tool_needed"]))
            decided.append(choose_tool(chat.runtime(), item["message"], tools, must=False) is not None)
    return needed, decided


def balanced(rows: Sequence[tuple[bool, bool]]) -> float:
    """Return the mean of the shares of needed calls made and of needless calls left out."""
    shares = []
    for wanted in (True, False):
        right = [decided == wanted for needed, decided in rows if needed == wanted]
        shares.append(sum(right) / max(1, len(right)))
    return sum(shares) / 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--half", choices=("tune", "report", "all"), default="report")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0, max_tokens=128)
    cases = [json.loads(line) for line in (CASES / "tool_cases.jsonl").read_text().splitlines()]
    wanted = {"tune": [False], "report": [True], "all": [False, True]}[options.half]
    cases = [case for case in cases if reports(case["id"]) in wanted]
    result: dict[str, Any] = {"benchmark": "tools", "cases": len(cases)}
    for name, picker in (("scores", None), ("router", router())):
        rows = run_cases(chat, cases, picker)
        for what, place in (("tool", 0), ("arguments", 1)):
            values = [row[place] for row in rows]
            low, high = interval(values, share)
            print(f"{name:16} {what:10} {share(values):.2f}  [{low:.2f}, {high:.2f}]")
            result[f"{name} {what}"] = share(values)
    if options.data:
        pairs = list(zip(*decisions(chat, options.data, wanted), strict=True))
        low, high = interval(pairs, balanced)
        result["tool_needed balanced"] = balanced(pairs)
        print(f"{'scores':16} {'tool_needed':10} {balanced(pairs):.2f}  [{low:.2f}, {high:.2f}]  balanced")
    print(json.dumps(result))


if __name__ == "__main__":
    configure_threads()
    main()
