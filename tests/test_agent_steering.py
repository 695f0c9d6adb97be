"""Turns with a planner: the one tool of the route, its answer, and parts that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent_fakes import CONFIG, calls, last, resume, scripted
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agent.planner.planner import Planner, available_routes
from agent.planner.router import RouteDecision
from agent.turn.context import RunContext
from agent.turn.events import Approval, Notice, stream_events
from agent.turn.graph import build_graph
from tools import read_file_tool


@tool
def look(where: str) -> str:
    """Looks somewhere."""
    return f"saw {where}"


look.metadata = {"kind": "read", "reaches": "machine"}


class FixedRouter:
    """A router that always returns the same route."""

    def __init__(self, route: str, tool: str | None = None, missing: str | None = None) -> None:
        self.decision = RouteDecision(
            route=route, probability=1.0, reason="fixed", tool=tool, missing=missing
        )

    def route(self, message: str, *, available: Any) -> RouteDecision:
        return self.decision


@tool
def calculator(expression: str) -> str:
    """Calculates."""
    return "42"


calculator.metadata = {"kind": "read", "reaches": "nothing"}


def test_steering_offers_the_routed_tool_alone_and_answers_with_its_result() -> None:
    model = scripted(calls("calculator", expression="6*7"))
    agent = build_graph(
        model,
        tools=[calculator, look],
        planner=Planner(FixedRouter("calculator")),
    )
    events = list(stream_events(agent, "six times seven"))
    assert last(events).text == "42" and model.choices == ["calculator"]
    assert any(
        isinstance(event, Notice) and event.kind == "route" and "fixed" in event.text for event in events
    )


def test_steering_lets_the_model_answer_from_material() -> None:
    model = scripted(calls("look", where="there"), "I saw there")
    agent = build_graph(model, tools=[calculator, look], planner=Planner(FixedRouter("tool", "look")))
    assert last(list(stream_events(agent, "look there"))).text == "I saw there"
    assert model.choices == ["look", None]


@tool
def read_file(path: str) -> str:
    """Reads a file."""
    return f"what {path} says"


@tool
def summarize(text: str) -> str:
    """Summarizes a text."""
    return f"in short: {text}"


read_file.metadata = {"kind": "read", "reaches": "machine"}
summarize.metadata = {"kind": "read", "reaches": "nothing"}


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("Summarize notes.md", "in short: what notes.md says"),
        ("Which port stands in notes.md?", "the port is 80"),
    ],
)
def test_a_file_that_is_to_be_summarized_is_read_and_summarized(message: str, answer: str) -> None:
    router: Any = FixedRouter("file")
    model = scripted(calls("read_file", path="notes.md"), "the port is 80")
    agent = build_graph(model, tools=[read_file, summarize], planner=Planner(router))
    assert last(list(stream_events(agent, message))).text == answer
    assert len(model.seen) == (1 if "short" in answer else 2)


def test_a_file_that_cannot_be_read_is_told_to_the_user_and_not_summarized(tmp_path: Path) -> None:
    router: Any = FixedRouter("file")
    model = scripted(calls("read_file", path="nope.md"))
    agent = build_graph(model, tools=[read_file_tool([tmp_path]), summarize], planner=Planner(router))
    text = last(list(stream_events(agent, "Summarize nope.md"))).text
    assert text == "error: 'nope.md' cannot be read: No such file or directory; check the path"


@pytest.mark.parametrize("context", [RunContext(tools="off"), RunContext()])
def test_steering_without_a_tool(context: RunContext) -> None:
    route = FixedRouter("direct") if context.tools == "auto" else FixedRouter("calculator")
    model = scripted("hello")
    agent = build_graph(model, tools=[calculator], planner=Planner(route))
    assert last(list(stream_events(agent, "hi", context=context))).text == "hello" and model.choices == [None]


@pytest.mark.parametrize(
    ("missing", "docs", "said"),
    [
        ("file", "auto", "--files DIR"),
        ("docs", "auto", "agent ingest PATH"),
        ("docs", "off", None),  # the user's own choice
        ("run", "auto", None),
        (None, "auto", None),
    ],
)
def test_what_is_asked_for_and_not_there_is_said_with_the_way_out(
    missing: str | None, docs: Any, said: str | None
) -> None:
    router: Any = FixedRouter("direct", missing=missing)
    agent = build_graph(scripted("hello"), tools=[calculator], planner=Planner(router))
    events = list(stream_events(agent, "open it", context=RunContext(docs=docs)))
    told = [event.text for event in events if isinstance(event, Notice) and event.kind == "status"]
    assert len(told) == (said is not None) and all(said in text for text in told if said)


def test_routes_without_their_tool_are_not_available() -> None:
    assert available_routes(frozenset({"calculator"}), documents=False) == ("direct", "calculator")


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        ({"type": "reject", "message": "no time"}, "run_python was not called: no time"),
        (
            {"type": "edit", "edited_action": {"name": "run_python", "args": {"code": "print(2)"}}},
            "ran print(2)",
        ),
        ({"type": "approve"}, "ran print(1)"),
    ],
)
def test_a_steered_turn_tells_the_user_what_became_of_the_call(decision: dict[str, Any], said: str) -> None:
    @tool
    def run_python(code: str) -> str:
        """Runs code."""
        return f"ran {code}"

    agent = build_graph(
        scripted("never said"),
        tools=[run_python],
        planner=Planner(FixedRouter("run")),
        checkpointer=InMemorySaver(),
    )
    pause = list(stream_events(agent, "Run this code: print(1)", config=CONFIG))[-1]
    assert isinstance(pause, Approval)
    assert resume(agent, pause, decision).text == said
