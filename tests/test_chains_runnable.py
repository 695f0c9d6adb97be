"""Runnables made from a generator, which is closed when its reader leaves, whatever it is doing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM

from chains import complete_chain, summarize_chain
from chains.runnable import generator_chain


class Source:
    """A chain of slow steps that records when it is closed."""

    def __init__(self) -> None:
        self.steps = 0
        self.closed = threading.Event()
        self.chain: Any = generator_chain(self.produce, name="slow", result=int)

    def produce(self, given: Any, config: Any) -> Iterator[int]:
        try:
            for number in range(100):
                self.steps += 1
                time.sleep(0.05)
                yield number
        finally:
            self.closed.set()


async def test_cancelling_in_the_middle_of_a_step_is_a_cancellation_and_ends_the_work() -> None:
    for start in (lambda chain: chain.ainvoke("a"), _drain):
        source = Source()
        task = asyncio.ensure_future(start(source.chain))
        await asyncio.sleep(0.12)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(source.closed.wait, 5) and source.steps < 50


async def _drain(chain: Any) -> list[Any]:
    return [one async for one in chain.astream("a")]


async def test_a_timeout_is_a_timeout() -> None:
    source = Source()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(source.chain.ainvoke("a"), 0.12)
    assert await asyncio.to_thread(source.closed.wait, 5)


async def test_leaving_a_stream_between_steps_closes_it_at_once() -> None:
    source = Source()
    pieces = source.chain.astream("a")
    assert await anext(pieces) == 0
    await pieces.aclose()
    assert source.closed.is_set() and source.steps == 1


async def test_an_error_of_a_step_comes_through_and_closes() -> None:
    def produce(given: Any, config: Any) -> Iterator[int]:
        yield 1
        raise KeyError("step")

    chain: Any = generator_chain(produce, name="broken", result=int)
    pieces = chain.astream("a")
    assert await anext(pieces) == 1
    with pytest.raises(KeyError, match="step"):
        await anext(pieces)


async def test_streams_of_chains_end_when_they_are_left() -> None:
    completions = complete_chain(FakeListLLM(responses=["and so on"])).astream("And so")
    assert await anext(completions) == "and so on"
    await completions.aclose()
    text = " ".join(
        f"Line {number} tells of the town and its bridges over the river." for number in range(200)
    )
    refining: Any = summarize_chain(None, refine=True, part_tokens=64)
    states = refining.astream(text)
    assert (await anext(states)).parts
    await states.aclose()
