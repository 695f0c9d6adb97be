"""Middleware that ends an answer which has begun to repeat itself, as small models do, and says so.

An answer repeats itself where its end is the same piece of text several times over; the thread keeps it
once. Watches the tokens of the turn's own model calls through LangChain's callbacks; knows text, and refuses
to know models and sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables.config import ensure_config, merge_configs, var_child_runnable_config

from agent.context import RunContext

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

_TIMES, _CHARACTERS = 6, 400
"""A piece of text this often, and this much of it altogether: a refrain or a table's line is less."""
_KEY = 40


class Repeated(Exception):
    """The answer goes round in circles; `text` is what has been said, each piece once."""

    def __init__(self, text: str) -> None:
        super().__init__("the answer repeats itself")
        self.text = text


def repeats(text: str) -> bool:
    """Whether a text ends with the same piece six times or more, 400 characters at least."""
    return _period(text) is not None


def said_once(text: str) -> str:
    """The text without the repetitions at its end: in the thread, they would call forth the next ones."""
    period = _period(text)
    if period is None:
        return text
    begin = len(text) - period
    while begin > 0 and text[begin - 1] == text[begin - 1 + period]:
        begin -= 1
    return text[: begin + period].rstrip()


def _period(text: str) -> int | None:
    """The length of the piece that a text ends with again and again, None where there is none."""
    before = text.rfind(text[-_KEY:], 0, len(text) - 1)
    if before < 0 or len(text) < _CHARACTERS:
        return None
    period = len(text) - len(text[-_KEY:]) - before
    tail = text[-max(_CHARACTERS, _TIMES * period) :]
    return period if len(tail) >= _TIMES * period and tail[period:] == tail[:-period] else None


# LangChain logs what a callback raises as an error of it; this one is no error, and is told to the user.
logging.getLogger("langchain_core.callbacks.manager").addFilter(
    lambda record: not (isinstance(record.args, tuple) and record.args[:1] == ("Watch",))
)


class Watch(BaseCallbackHandler):
    """Listens to one model call, and raises Repeated in it."""

    raise_error = True  # LangChain swallows what a handler raises unless it says so
    run_inline = True

    def __init__(self) -> None:
        self._said = ""

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """One more piece of the answer."""
        self._said += token if isinstance(token, str) else ""
        if repeats(self._said):
            raise Repeated(said_once(self._said))


class Repetition(AgentMiddleware[AgentState[Any], RunContext, Any]):
    """Takes an answer as finished where it repeats itself."""

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Call the model, and listen."""
        try:
            with _listening():
                return handler(request)
        except Repeated as end:
            return _ended(end, request.runtime)

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        try:
            with _listening():
                return await handler(request)
        except Repeated as end:
            return _ended(end, request.runtime)


@contextmanager
def _listening() -> Iterator[None]:
    """Add a watch to the callbacks that the model inherits from the graph."""
    config = merge_configs(ensure_config(), {"callbacks": [Watch()]})
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _ended(end: Repeated, runtime: Runtime[RunContext]) -> AIMessage:
    text = "the model repeated itself, so its answer was ended here"
    runtime.stream_writer({"type": "notice", "kind": "status", "text": text})
    return AIMessage(content=end.text)
