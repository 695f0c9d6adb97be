"""A turn that is stopped from outside ends within a token, or at once in a waiting tool, and stays ended."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from agent_fakes import CONFIG, calls, last, scripted
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver

from agent.storage.threads import close_turn, is_unfinished
from agent.turn.context import RunContext, Stop, Stopped
from agent.turn.events import Delta, astream_events, stream_events
from agent.turn.graph import build_graph


@tool("wait")
def sync_wait(x: str) -> str:
    """Waits."""
    time.sleep(2)
    return x


@tool("wait")
async def async_wait(x: str) -> str:
    """Waits."""
    await asyncio.sleep(2)
    return x


for waiting in (sync_wait, async_wait):
    waiting.metadata = {"kind": "read", "reaches": "machine"}


def test_a_turn_is_stopped_from_another_thread_within_a_token() -> None:
    stop, seen = Stop(), list[str]()
    agent = build_graph(scripted("word " * 400, pace=0.02), checkpointer=InMemorySaver())
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        for event in stream_events(agent, "go", context=RunContext(stop=stop), config=CONFIG):
            seen.append(getattr(event, "text", ""))
    assert time.monotonic() - started < 3 and 1 < len(seen) < 100


def test_a_hanging_tool_is_stopped_at_once_and_the_closed_turn_is_over() -> None:
    stop = Stop()
    agent = build_graph(
        scripted(calls("wait", x="1"), "fine"), tools=[sync_wait], checkpointer=InMemorySaver()
    )
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        list(stream_events(agent, "go", context=RunContext(stop=stop), config=CONFIG))
    assert time.monotonic() - started < 2 and is_unfinished(agent.get_state(CONFIG))
    close_turn(agent, CONFIG, "(stopped)")
    assert not is_unfinished(agent.get_state(CONFIG))
    messages = agent.get_state(CONFIG).values["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"] and messages[-1].text == "(stopped)"
    assert last(list(stream_events(agent, "next", config=CONFIG))).text == "fine"


@pytest.mark.parametrize("kept", [True, False])
def test_an_asynchronous_turn_is_stopped_within_a_token(kept: bool) -> None:
    agent = build_graph(scripted("word " * 400, pace=0.005), checkpointer=InMemorySaver() if kept else None)
    seen: list[Any] = []

    async def run() -> None:
        stop = Stop()
        async for event in astream_events(agent, "go", context=RunContext(stop=stop), config=CONFIG):
            seen.append(event)
            if len(seen) == 3:
                stop.set()

    with pytest.raises(Stopped):
        asyncio.run(run())
    assert 3 <= sum(isinstance(event, Delta) for event in seen) < 100


@pytest.mark.parametrize("waiting", [sync_wait, async_wait])
def test_an_asynchronous_turn_does_not_wait_for_a_hanging_tool(waiting: BaseTool) -> None:
    agent = build_graph(scripted(calls("wait", x="1"), "fine"), tools=[waiting])

    async def run() -> float:
        stop = Stop()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        started = time.monotonic()
        with pytest.raises(Stopped):
            async for _ in astream_events(agent, "go", context=RunContext(stop=stop)):
                pass
        return time.monotonic() - started

    assert asyncio.run(run()) < 1.5


def test_an_error_without_a_wish_to_end_stays_an_error() -> None:
    def fail(messages: Any) -> str:
        raise AttributeError("no such thing")

    async def run() -> None:
        async for _ in astream_events(build_graph(scripted(fail)), "go", context=RunContext(stop=Stop())):
            pass

    with pytest.raises(AttributeError, match="no such thing"):
        asyncio.run(run())
