"""Runnables made from one generator, which yields deltas and then the whole result.

A chain is written once, as a synchronous generator over one input; `generator_chain` adds invoke, stream,
batch, their asynchronous forms, callbacks and config. The asynchronous forms run each step of the generator
in LangChain's executor, so a forward pass never blocks the event loop. Closing the asynchronous iterator
closes the generator at once, or, if the task was cancelled in the middle of a step, when that step ends.

    >>> from langchain_core.runnables import RunnableConfig
    >>> def spell(word: str, config: RunnableConfig) -> Iterator[str]:
    ...     yield from word
    >>> chain = generator_chain(spell, name="spell", result=str)
    >>> chain.invoke("cat"), list(chain.stream("cat"))
    ('cat', ['c', 'a', 't'])
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
    """Return a Runnable that streams what `produce` yields: deltas, then the `result`.

    The class of the deltas must define `__add__` so that `delta + result` is the result, because LangChain
    adds up a stream to get what `invoke` returns.
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

    # LangChain passes `config` to a function that takes it, but its types name the input only.
    chain: Any = RunnableGenerator(cast("Any", transform), cast("Any", atransform), name=name)
    return cast("Runnable[Input, Result]", chain)


async def stepped(source: Iterator[Any], config: RunnableConfig) -> AsyncGenerator[Any, None]:
    """Yield what `source` yields, running each step in LangChain's executor; closing this closes `source`."""
    steps = _ClosableGenerator(source)
    try:
        while (item := await run_in_executor(config, steps.next)) is not _END:
            yield item
    finally:
        steps.close()


class _ClosableGenerator:
    """A generator that one thread may close while another is running it, which Python does not allow."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._busy = threading.Lock()
        self._unwanted = False

    def next(self) -> Any:
        """Return the next item, or `_END` after the last."""
        with self._busy:
            item = _END if self._unwanted else next(self._source, _END)
        if self._unwanted:
            self.close()
        return item

    def close(self) -> None:
        """Close the generator now, or let the step that is running close it when it ends."""
        self._unwanted = True
        # The thread that holds the lock reads this flag after it releases the lock, so one of the two closes.
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
