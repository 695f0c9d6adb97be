"""Print how well the router finds tools that a user adds, against the nearest tool description.

    python benchmarks/routing_own.py --data PATH [--half HALF] [--vote]

Two hand-written sets offer each message a handful of tools by name and description: is a tool chosen, and is
it the right one? Near misses of the second set, and the messages of routing.jsonl, none of which asks for
these tools, show what the tools take away from the other routes. No tool of either set is among the examples
that the router learned from. The baseline, in the same run, chooses the nearest description if its cosine is
at least .35.

`--vote` adds the model's log-probabilities of the routes' names to the router's, over a grid of weights, and
prints the time that this takes (the router has 50 ms in addition to the embedding). Half of all items, by
hash, only reports. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from agent.planner.router import ROUTES, Router
from llms.threads import configure_threads

CASES = Path(__file__).parent.parent / "tests" / "data"
WAYS = {
    "calculator": "the calculator",
    "classify": "a choice among labels",
    "code": "a program to be written",
    "direct": "a plain answer",
    "docs": "a search in the documents",
    "file": "a file to be read",
    "run": "code to be run",
    "summarize": "a summary",
}


def read(path: Path, half: str) -> list[dict[str, Any]]:
    """Return the items of one half, or of both."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parity = {"tune": (0,), "report": (1,), "both": (0, 1)}[half]
    return [row for row in rows if zlib.crc32(row["id"].encode()) % 2 in parity]


def interval(hits: list[bool]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a share, from 2,000 draws."""
    random = np.random.default_rng(0)
    draws = [random.choice(hits, len(hits)).mean() for _ in range(2000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


class Remembering:
    """Embeds each text once, because the cases share their tools."""

    def __init__(self, embeddings: Any) -> None:
        self._embeddings = embeddings
        self._known: dict[str, list[float]] = {}

    def embed_query(self, text: str) -> list[float]:
        """Embed one text."""
        if text not in self._known:
            self._known[text] = self._embeddings.embed_query(text)
        return self._known[text]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed several texts."""
        return [self.embed_query(text) for text in texts]


def tool_cases(embeddings: Any, name: str, half: str) -> dict[str, list[bool]]:
    """Return whether each case was routed as it should be, for the router and the baseline."""
    tools = described(name)
    found: dict[str, list[bool]] = {}
    for case in read(CASES / f"{name}.jsonl", half):
        offered = {tool: tools[tool] for tool in case["offered"]}
        taken = Router(embeddings, tools=offered).route(case["message"]).tool
        near = np.array(embeddings.embed_documents(list(offered.values()))) @ np.array(
            embeddings.embed_query(case["message"])
        )
        nearest = list(offered)[int(near.argmax())] if near.max() >= 0.35 else None
        kind = "right" if case["tool"] else "near_misses_kept"
        for way, tool in (("router", taken), ("nearest", nearest)):
            found.setdefault(f"{name}.{way}.{kind}", []).append(tool == case["tool"])
        if case["tool"]:
            found.setdefault(f"{name}.router.called", []).append(taken is not None)
    return found


def described(name: str) -> dict[str, str]:
    """Return the tools of a set with their descriptions."""
    tools = json.loads((CASES / f"{name}_tools.json").read_text(encoding="utf-8"))
    return {tool: facts["function"]["description"] for tool, facts in tools.items()}


def taken_away(embeddings: Any, tools: dict[str, str], rows: list[dict[str, Any]]) -> list[bool]:
    """Return whether each message, none of which needs an added tool, was routed to none."""
    router = Router(embeddings, tools=tools)
    return [router.route(row["message"]).tool is None for row in rows]


def vote(embeddings: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return route accuracy with the model's vote at several weights, and its milliseconds per message."""
    from llms import ChatLocal

    model, router = ChatLocal(model="smollm2-135m", temperature=0), Router(embeddings)
    frame = "Message: {}\nWhat this message needs is"
    ways = [f" {WAYS[route]}" for route in ROUTES]
    prior = np.array(model.score(frame.format(""), ways))
    ours, theirs, spent = [], [], 0.0
    for row in rows:
        text = row["message"][:600]
        ours.append(np.log(router.scores(text)))
        started = time.perf_counter()
        theirs.append(np.array(model.score(frame.format(text), ways)) - prior)
        spent += time.perf_counter() - started
    truth = np.array([ROUTES.index(row["route"]) for row in rows])
    logs, votes = np.array(ours), np.array(theirs)
    found = {
        f"vote.{weight}": float(((logs + weight * votes).argmax(axis=1) == truth).mean())
        for weight in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
    }
    alone = float((votes.argmax(axis=1) == truth).mean())
    return {**found, "vote.alone": alone, "vote.ms": spent / len(rows) * 1000}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with routing.jsonl")
    parser.add_argument("--half", choices=["tune", "report", "both"], default="tune")
    parser.add_argument("--vote", action="store_true", help="also measure the model's vote")
    args = parser.parse_args()
    if not (args.data / "routing.jsonl").is_file():
        parser.error(f"expected routing.jsonl in the folder, found none at {args.data}")
    from chains.retrieval import default_embeddings

    embeddings = Remembering(default_embeddings())
    rows = read(args.data / "routing.jsonl", args.half)
    first, second = described("tool_cases"), described("own_tools")
    found = {
        **tool_cases(embeddings, "tool_cases", args.half),
        **tool_cases(embeddings, "own_tools", args.half),
        f"others_kept_of_{len(first)}": taken_away(embeddings, first, rows),
        f"others_kept_of_{len(first | second)}": taken_away(embeddings, first | second, rows),
    }
    report: dict[str, Any] = {}
    for name, hits in found.items():
        low, high = interval(hits)
        report[name] = round(float(np.mean(hits)), 3)
        print(f"{name:36} {report[name]:.3f}   {low:.2f}-{high:.2f}   of {len(hits)}")
    if args.vote:
        for name, value in vote(embeddings, rows).items():
            report[name] = round(value, 3)
            print(f"{name:36} {report[name]}")
    print(json.dumps({"benchmark": "routing_own", "half": args.half, **report}))


if __name__ == "__main__":
    configure_threads()
    main()
