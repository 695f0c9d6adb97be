"""Runnables made of one generator: deltas first, then the whole result.

Knows LangChain's calling conventions (invoke, stream, batch, async, callbacks, config); knows no task. A
chain is written once, as a synchronous generator over one input, and `generator_chain` gives it the rest. The
asynchronous side steps that generator in LangChain's executor, so the event loop is never blocked by a
forward pass, and closing the asynchronous iterator closes the generator: at once, or, where the task was
cancelled in the middle of a step, when that step is done.
"""

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from langchain_core.runnables.config import run_in_executor

Input = TypeVar("Input")
Result = TypeVar("Result")
_END = object()


def generator_chain(
    produce: Callable[[Input, RunnableConfig], Iterator[Any]], *, name: str, result: type[Result]
) -> Runnable[Input, Result]:
    """Make a Runnable of `produce`, which yields deltas and last the `result`.

    The deltas' class must define `__add__` such that `delta + result` is the result; that is how LangChain
    folds a stream into what `invoke` returns.
    """

    def transform(chunks: Iterator[Input], config: RunnableConfig) -> Iterator[Any]:
        whole: Any = None
        for chunk in chunks:
            whole = chunk if whole is None else _joined(whole, chunk)
        yield from produce(whole, config)

    async def atransform(chunks: AsyncIterator[Input], config: RunnableConfig) -> AsyncIterator[Any]:
        whole: Any = None
        async for chunk in chunks:
            whole = chunk if whole is None else _joined(whole, chunk)
        async with aclosing(stepped(produce(whole, config), config)) as items:
            async for item in items:
                yield item

    # LangChain passes `config` to functions that take it; its types know only the input.
    chain: Any = RunnableGenerator(cast("Any", transform), cast("Any", atransform), name=name)
    return cast("Runnable[Input, Result]", chain)


async def stepped(source: Iterator[Any], config: RunnableConfig) -> AsyncGenerator[Any, None]:
    """Yield what `source` yields, each step taken in LangChain's executor; closing this closes `source`."""
    steps = _Steps(source)
    try:
        while (item := await run_in_executor(config, steps.next)) is not _END:
            yield item
    finally:
        steps.close()


class _Steps:
    """A generator that may be asked to close by one thread while another is in it, which Python refuses."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._busy = threading.Lock()
        self._unwanted = False

    def next(self) -> Any:
        """Return the next item, or _END."""
        with self._busy:
            item = _END if self._unwanted else next(self._source, _END)
        if self._unwanted:
            self.close()
        return item

    def close(self) -> None:
        """Close the generator now, or leave it to the step that is under way."""
        self._unwanted = True
        # Whoever holds the lock looks at the mark after giving it up, so one of the two closes.
        if self._busy.acquire(blocking=False):
            try:
                close = getattr(self._source, "close", None)
                if close is not None:
                    close()
            finally:
                self._busy.release()


def _joined(whole: Any, chunk: Any) -> Any:
    try:
        return whole + chunk
    except TypeError:
        return {**whole, **chunk} if isinstance(whole, dict) and isinstance(chunk, dict) else chunk
