"""A turn begins with the graph's own nodes, in few steps, before the model runs."""

from __future__ import annotations

from typing import Any

from agent_fakes import CONFIG, scripted
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agent.planner.planner import Planner
from agent.planner.router import RouteDecision
from agent.turn.compaction import Compaction
from agent.turn.context import RunContext
from agent.turn.events import stream_events
from agent.turn.graph import build_graph


@tool
def look(where: str) -> str:
    """Looks."""
    return where


class Direct:
    """A router that sends everything to the model."""

    def route(self, message: str, *, available: Any) -> RouteDecision:
        return RouteDecision(route="direct", probability=1.0, reason="test")


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
        planner=Planner(Direct()),
        compaction=Compaction(model, answer_tokens=100),
        checkpointer=Counting(),
    )
    list(stream_events(agent, "hello", context=RunContext(), config=CONFIG))
    assert before == [3]  # the question, LangGraph's own start, the plan
