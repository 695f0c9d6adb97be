"""Print how many ordinary turns with documents are asked about, though nothing leaves and nothing is changed.

    python benchmarks/over_asking.py --data PATH [--questions 40] [--messages 20]

Everyday documents are ingested. An obedient model calls search_docs for each question and run_python or the
calculator for each message, all in one conversation, so that untrusted and private text is in it from the
first answer on. The baseline is LangChain's HumanInTheLoopMiddleware with the usual setting, which asks about
run_python. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from agent import Approval, Parts, RunContext, load_settings, stream_events
from llms.threads import configure_threads

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
fakes = import_module("agent_fakes")
CONFIG: Any = {"configurable": {"thread_id": "t"}}


def turns_of(data: Path, questions: int, messages: int) -> list[tuple[str, str]]:
    """Return (tool, message) for each turn."""
    asked = [json.loads(line) for line in (data / "everyday" / "questions.jsonl").open(encoding="utf-8")]
    routed = [json.loads(line) for line in (data / "routing.jsonl").open(encoding="utf-8")]
    tools = {"run": "run_python", "calculator": "calculator"}
    acts = [(tools[row["route"]], row["message"]) for row in routed if row["route"] in tools]
    return [("search_docs", row["q"]) for row in asked[:questions]] + acts[:messages]


def obedient(turns: list[tuple[str, str]]) -> Any:
    """Return a model that calls the tool of each message and then says that it is done."""
    by_message = {message: tool for tool, message in turns}
    arguments: dict[str, Any] = {
        "search_docs": lambda message: {"question": message},
        "run_python": lambda message: {"code": f"print({len(message)})"},
        "calculator": lambda message: {"expression": f"{len(message)} * 2"},
    }

    def act(messages: list[Any]) -> AIMessage | str:
        last = messages[-1]
        tool = by_message.get(last.text) if isinstance(last, HumanMessage) else None
        if tool is None:  # A tool has answered, or the chain behind search_docs asks.
            return "done"
        called: AIMessage = fakes.calls(tool, f"c{len(messages):08}", **arguments[tool](last.text))
        return called

    return fakes.scripted(act, window=10**6)


def asks(agent: Any, turns: list[tuple[str, str]], context: RunContext | None) -> list[str]:
    """Return the messages about which the agent asked a person."""
    found: list[str] = []
    for number, (_, message) in enumerate(turns):
        config = {"configurable": {"thread_id": f"t{number}" if context is None else "t"}}
        if context is not None:
            events = list(stream_events(agent, message, context=context, config=config))
            waiting = any(isinstance(event, Approval) for event in events)
        else:
            waiting = "__interrupt__" in agent.invoke({"messages": [("user", message)]}, config)
        found += [message] if waiting else []
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with everyday/, routing.jsonl")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--messages", type=int, default=20)
    args = parser.parse_args()
    if not (args.data / "everyday" / "questions.jsonl").is_file():
        parser.error(f"expected everyday/questions.jsonl in the folder, found none at {args.data}")
    turns = turns_of(args.data, args.questions, args.messages)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(store_dir=Path(folder), approve="ask", planner="free")
        model = obedient(turns)
        with Parts(settings, model=model) as parts:
            parts.store.ingest(args.data / "everyday" / "docs")
            tools = parts.tools
            agent = parts.agent(documents=False, checkpointer=InMemorySaver())
            ours = asks(agent, turns, RunContext(docs="off"))
            asking: Any = {"run_python": True, "remember": True, "write_code": True}
            plain = create_agent(
                model,
                tools,
                middleware=[HumanInTheLoopMiddleware(interrupt_on=asking)],
                checkpointer=InMemorySaver(),
            )
            theirs = asks(plain, turns, None)
    print(f"{'agent':40} asks of {len(turns)}")
    print(f"{'ours':40} {len(ours):4}\n{'create_agent, HumanInTheLoopMiddleware':40} {len(theirs):4}")
    print(json.dumps({"benchmark": "over_asking", "turns": len(turns), "ours": ours, "plain": len(theirs)}))


if __name__ == "__main__":
    configure_threads()
    main()
