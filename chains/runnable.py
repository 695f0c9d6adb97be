"""Runnables made of one generator: deltas first, then the whole result.

Knows LangChain's calling conventions (invoke, stream, batch, async, callbacks, config); knows no task. A
chain is written once, as a synchronous generator over one input, and `generator_chain` gives it the rest. The
asynchronous side steps that generator in LangChain's executor, so the event loop is never blocked by a
forward pass, and closing the asynchronous iterator closes the generator.
"""

from collections.abc import AsyncIterator, Callable, Iterator
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
        source = produce(whole, config)
        try:
            while (item := await run_in_executor(config, next, source, _END)) is not _END:
                yield item
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    # LangChain passes `config` to functions that take it; its types know only the input.
    chain: Any = RunnableGenerator(cast("Any", transform), cast("Any", atransform), name=name)
    return cast("Runnable[Input, Result]", chain)


def _joined(whole: Any, chunk: Any) -> Any:
    try:
        return whole + chunk
    except TypeError:
        return {**whole, **chunk} if isinstance(whole, dict) and isinstance(chunk, dict) else chunk
