"""Middleware that bounds a turn: steps, time, tokens, calls made again and again, tools that fail.

A turn that reaches a limit is answered with what it has and says so. Knows counts and clocks; refuses to know
what a tool does. `agent.turn.bounds` bounds each call, LangChain's own ToolCallLimitMiddleware counts them.

Middleware that bounds each tool call: its time, what it returns and raises, and that it is not repeated.

Whatever a tool does becomes a message of bounded size, or an error that goes back to the model. Knows calls
and clocks; refuses to know what a tool does, and how many calls a turn may make (LangChain's
ToolCallLimitMiddleware counts them).

Middleware that ends an answer which has begun to repeat itself, as small models do, and says so.

An answer repeats itself where its end is the same piece of text several times over; the thread keeps it
once. Watches the tokens of the turn's own model calls through LangChain's callbacks; knows text, and refuses
to know models and sampling.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, cast

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    ToolCallRequest,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import ensure_config, merge_configs, var_child_runnable_config
from langgraph.errors import GraphBubbleUp

from agent.turn.context import RunContext, Stop
from agent.turn.opening import Opener

if TYPE_CHECKING:
    from langgraph.runtime import Runtime
    from langgraph.types import Command

_SAME_CALLS = 2
"""An identical call is made once and refused once with a hint; the third ends the turn."""
_ERRORS = 2
"""Failures of tools in one turn: the first goes to the model, the second ends the turn."""


@dataclass(frozen=True, kw_only=True)
class TurnLimits:
    """What one turn may use; times in seconds."""

    steps: int = 12
    seconds: float = 600.0
    tokens: int = 32768
    tool_seconds: float = 60.0
    tool_chars: int = 20000


def _latest(before: float, now: float) -> float:
    return max(before, now)


class LimitState(AgentState[Any]):
    """Adds when this turn began, in seconds since the epoch, so that it survives a restart."""

    # Resuming a turn can start its clock in the same step as the killed process did, so two values may meet.
    turn_started: NotRequired[Annotated[float, _latest]]


def clock_started() -> dict[str, Any]:
    """Return the state update that starts the turn's clock.

    It is applied again when a turn is resumed, so that neither the hours after a kill nor the time that a
    person takes to allow a call count against `TurnLimits.seconds`.
    """
    return {"turn_started": time.time()}


class Limits(Opener[LimitState]):
    """Ends a turn at its limits."""

    state_schema = LimitState

    def __init__(self, limits: TurnLimits) -> None:
        super().__init__()
        self._limits = limits

    def open_turn(self, state: LimitState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Start the turn's clock."""
        return clock_started()

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """End the turn where a limit is reached."""
        return self._ended(request) or handler(request)

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        return self._ended(request) or await handler(request)

    def _ended(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The turn's last answer where a limit is reached."""
        state = cast("LimitState", request.state)
        turn = since_user(state["messages"])
        reason = self._reached(turn, state.get("turn_started") or time.time())
        if reason is None:
            return None
        text = f"Stopped: {reason}. {_what_there_is(turn)}"
        request.runtime.stream_writer({"type": "notice", "kind": "status", "text": f"limit: {reason}"})
        request.runtime.stream_writer({"type": "delta", "text": text})
        return AIMessage(content=text)

    def _reached(self, turn: Sequence[AnyMessage], started: float) -> str | None:
        steps = sum(isinstance(m, AIMessage) for m in turn)
        usages = [m.usage_metadata for m in turn if isinstance(m, AIMessage) and m.usage_metadata]
        tokens = sum(usage["output_tokens"] for usage in usages)
        errors = [m for m in turn if isinstance(m, ToolMessage) and m.status == "error"]
        calls = [call_signature(c) for m in turn if isinstance(m, AIMessage) for c in m.tool_calls]
        if steps >= self._limits.steps:
            return f"{steps} steps are the limit of a turn (max_steps)"
        if time.time() - started > self._limits.seconds:
            return f"{self._limits.seconds:g} s are the limit of a turn (max_seconds)"
        if tokens > self._limits.tokens:
            return f"{self._limits.tokens} tokens are the limit of a turn (max_turn_tokens)"
        if any(calls.count(call) > _SAME_CALLS for call in calls):
            return "the same tool was called again and again with the same arguments"
        if len(errors) >= _ERRORS:
            return "a tool failed twice"
        return None


def since_user(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The messages after the user's last one."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=-1)
    return list(messages[last + 1 :])


def call_signature(call: Any) -> str:
    """What makes two tool calls the same: the name and the arguments."""
    return f"{call['name']}{sorted(call['args'].items(), key=str)!r}"


def _what_there_is(turn: Sequence[AnyMessage]) -> str:
    """What the turn has come to so far, for the user."""
    results = [m for m in turn if isinstance(m, ToolMessage)]
    if not results:
        return "There is no result yet."
    return "\n".join(["What there is so far:", *(f"{m.name}: {m.text[:2000]}" for m in results[-3:])])


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_TEXT = "(a result without text)"
"""What a model that reads text is told of a picture, or of nothing at all."""
_LOOK_S = 0.05
"""How often a waiting turn looks whether it was stopped: Ctrl-C is answered at once, and it costs nothing."""


class ToolLimits(AgentMiddleware[AgentState[Any], RunContext, Any]):
    """Keeps tools within their time and size."""

    def __init__(self, limits: TurnLimits) -> None:
        super().__init__()
        self._limits = limits

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Run a tool in its time; whatever it raises or returns becomes a message of bounded size."""
        if (refused := self._repeated(request)) is not None:
            return refused
        try:
            return self._bounded(_run_in_time(handler, request, self._limits.tool_seconds))
        except GraphBubbleUp:
            raise
        except Exception as error:  # whatever a tool raises is told to the model, never lost
            return _failed(request, error)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`, for asynchronous runs."""
        if (refused := self._repeated(request)) is not None:
            return refused
        try:
            async with asyncio.timeout(self._limits.tool_seconds):
                return self._bounded(await _until_stopped(handler(request), _stop_of(request)))
        except GraphBubbleUp:
            raise
        except TimeoutError:
            return _failed(request, _too_slow(self._limits.tool_seconds))
        except Exception as error:  # as above
            return _failed(request, error)

    def _repeated(self, request: ToolCallRequest) -> ToolMessage | None:
        """Refuse a call that was already answered in this turn."""
        call = request.tool_call
        turn = since_user(request.state["messages"])
        answered = {m.tool_call_id for m in turn if isinstance(m, ToolMessage) and m.status == "success"}
        earlier = [c for m in turn if isinstance(m, AIMessage) for c in m.tool_calls if c["id"] != call["id"]]
        if not any(c["id"] in answered and call_signature(c) == call_signature(call) for c in earlier):
            return None
        text = f"{call['name']} was already called with these arguments. Answer from its result above."
        return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="success")

    def _bounded(self, result: ToolMessage | Command[Any]) -> ToolMessage | Command[Any]:
        """The result as harmless text of bounded length; a `Command` passes as it is."""
        if not isinstance(result, ToolMessage):
            return result
        text = _CONTROL.sub("", result.text)
        if not text and not isinstance(result.content, str):
            text = _NO_TEXT
        if len(text) > self._limits.tool_chars:
            cut = len(text) - self._limits.tool_chars
            text = f"{text[: self._limits.tool_chars]}\n[cut here: {cut:,} more characters]"
        return result.model_copy(update={"content": text})


def _failed(request: ToolCallRequest, error: BaseException) -> ToolMessage:
    call = request.tool_call
    text = _CONTROL.sub("", f"{call['name']} failed: {type(error).__name__}: {error}")[:2000]
    return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="error")


def _too_slow(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} s (tool_timeout_s)")


def _run_in_time(
    handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]], request: ToolCallRequest, seconds: float
) -> ToolMessage | Command[Any]:
    """Call `handler` in a daemon thread, left behind with TimeoutError where it takes too long."""
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            answer.put((context.run(handler, request), None))
        except BaseException as error:  # carried to the caller's thread, which raises it
            answer.put((None, error))

    threading.Thread(target=work, daemon=True, name=f"tool {request.tool_call['name']}").start()
    result, error = _waited(answer, _stop_of(request), seconds)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _waited(answer: queue.SimpleQueue[Any], stop: Stop | None, seconds: float) -> Any:
    """What the tool's thread puts down; raises TimeoutError, or Stopped where the turn is ended meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop is not None:
            stop.check()
        try:
            return answer.get(timeout=left if stop is None else min(left, _LOOK_S))
        except queue.Empty:
            continue
    raise _too_slow(seconds)


async def _until_stopped(work: Awaitable[Any], stop: Stop | None) -> Any:
    """The result of `work`; cancels it and raises Stopped where the turn is ended meanwhile."""
    if stop is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            stop.check()
            await asyncio.wait({task}, timeout=_LOOK_S)
        return task.result()
    finally:
        task.cancel()


def _stop_of(request: ToolCallRequest) -> Stop | None:
    context = getattr(request.runtime, "context", None)
    return context.stop if isinstance(context, RunContext) else None


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
