"""How a turn begins: one step of the graph, in which each opener sees what those before it have changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_fakes import CONFIG, scripted
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agent.planner.router import Decision
from agent.turn.compaction import Compaction
from agent.turn.context import RunContext
from agent.turn.events import stream_events
from agent.turn.graph import build_graph
from agent.turn.opening import Opener, Opening


@tool
def look(where: str) -> str:
    """Looks."""
    return where


class Direct:
    """A router that sends everything to the model."""

    def route(self, message: str, *, available: Any) -> Decision:
        return Decision(route="direct", probability=1.0, reason="test")


class Says(Opener[Any]):
    """Opens with a change, and keeps what it saw."""

    def __init__(self, change: dict[str, Any] | None) -> None:
        self.change, self.saw = change, list[dict[str, Any]]()

    def open_turn(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        self.saw.append(dict(state))
        return self.change


@pytest.mark.parametrize("asynchronous", [False, True])
def test_openers_see_the_changes_before_them_until_one_ends_the_turn(asynchronous: bool) -> None:
    end = {"messages": [AIMessage("done")], "jump_to": "end"}
    first, second, third, never = Says({"a": 1}), Says(None), Says(end), Says({"b": 2})
    opening = Opening([first, second, third, never])
    state, runtime = {"messages": []}, None
    if asynchronous:
        changed = asyncio.run(opening.abefore_agent(state, runtime))  # type: ignore[arg-type]
    else:
        changed = opening.before_agent(state, runtime)  # type: ignore[arg-type]
    assert changed == {"a": 1, **end}
    assert first.saw == [{"messages": []}] and third.saw == [{"messages": [], "a": 1}] and never.saw == []


def test_a_thread_is_written_three_times_before_the_first_word() -> None:
    written: list[int] = []

    class Counting(InMemorySaver):
        def put(self, *args: Any, **kwargs: Any) -> Any:
            written.append(1)
            return super().put(*args, **kwargs)

    before: list[int] = []

    def say(messages: Any) -> str:
        before.append(len(written))
        return "word"

    model = scripted(say)
    agent = build_graph(
        model,
        tools=[look],
        router=Direct(),  # type: ignore[arg-type]
        steered=True,
        compaction=Compaction(model, answer_tokens=100),
        checkpointer=Counting(),
    )
    list(stream_events(agent, "hello", context=RunContext(), config=CONFIG))
    assert before == [3]  # the question, LangGraph's own start, the opening
