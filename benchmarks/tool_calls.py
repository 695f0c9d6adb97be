"""Tool calls on the hand-written cases: right tool, all arguments right; and the decision to call at all.

Scores with and without the embedder are paired on the same cases. Half of the cases, by hash
of the id, only report. `--data PATH` adds the messages of routing.jsonl: is a tool needed, yes or no.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from llms import ChatLocal
from llms.tool_choice import CALL_THRESHOLD, tool_scores

CASES = Path(__file__).parent.parent / "tests" / "data"


def reports(identifier: str) -> bool:
    """Whether a case belongs to the half that only reports."""
    return zlib.crc32(identifier.encode()) % 2 == 1


def interval(values: Sequence[bool]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(2000))
    return means[50], means[1949]


def similarity() -> Any:
    """Return the embedder's similarity of a message to descriptions."""
    from chains.retrieval import default_embeddings

    embedder = default_embeddings()

    def score(message: str, descriptions: Sequence[str]) -> list[float]:
        one, *rest = embedder.embed_documents([message, *descriptions])
        return [sum(a * b for a, b in zip(one, other, strict=True)) for other in rest]

    return score


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare arguments; case and numbers' types do not matter."""
    return {k: str(v).casefold() for k, v in found.items()} == {
        k: str(v).casefold() for k, v in expected.items()
    }


def run_cases(chat: ChatLocal, cases: list[dict[str, Any]], scorer: Any) -> list[tuple[bool, bool]]:
    """Return (right tool, all arguments right) of each case."""
    tools = json.loads((CASES / "tool_cases_tools.json").read_text())
    model = chat.model_copy(update={"tool_scorer": scorer})
    rows = []
    for case in cases:
        bound = model.bind_tools([tools[name] for name in case["offered"]], tool_choice="any")
        answer = bound.invoke([HumanMessage(case["message"])])
        call = answer.tool_calls[0]
        right = call["name"] == case["tool"]
        rows.append((right, right and same(call["args"], case["args"])))
    return rows


def decisions(chat: ChatLocal, folder: Path) -> tuple[list[bool], list[bool], list[float]]:
    """Return (needed, decided, margin) of the messages that only report."""
    tools = json.loads((CASES / "tool_cases_tools.json").read_text()).values()
    needed, decided, margins = [], [], []
    for line in (folder / "routing.jsonl").read_text().splitlines():
        item = json.loads(line)
        if not reports(item["id"]):
            continue
        scores, plain = tool_scores(chat.runtime(), item["message"], list(tools))
        needed.append(bool(item["tool_needed"]))
        margins.append(max(scores) - plain)
        decided.append(margins[-1] >= CALL_THRESHOLD)
    return needed, decided, margins


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--half", choices=("tune", "report", "all"), default="report")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0, max_tokens=128)
    cases = [json.loads(line) for line in (CASES / "tool_cases.jsonl").read_text().splitlines()]
    wanted = {"tune": [False], "report": [True], "all": [False, True]}[options.half]
    cases = [case for case in cases if reports(case["id"]) in wanted]
    result: dict[str, Any] = {"benchmark": "tools", "cases": len(cases)}
    for name, scorer in (("scores", None), ("scores+embedder", similarity())):
        rows = run_cases(chat, cases, scorer)
        for what, place in (("tool", 0), ("arguments", 1)):
            values = [row[place] for row in rows]
            low, high = interval(values)
            print(f"{name:16} {what:10} {sum(values) / len(values):.2f}  [{low:.2f}, {high:.2f}]")
            result[f"{name} {what}"] = sum(values) / len(values)
    if options.data:
        needed, decided, _ = decisions(chat, options.data)
        recall = [d for n, d in zip(needed, decided, strict=True) if n]
        refusal = [not d for n, d in zip(needed, decided, strict=True) if not n]
        result["tool_needed balanced"] = (sum(recall) / len(recall) + sum(refusal) / len(refusal)) / 2
        print(f"tool_needed balanced accuracy {result['tool_needed balanced']:.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
