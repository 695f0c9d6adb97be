"""Bounds of a turn: its steps, time and tokens, its tool calls, and answers that repeat themselves.

A turn that reaches a bound is answered with what it has, and says so. LangChain's own middleware counts tool
calls and words the failures of tools. Its ModelCallLimitMiddleware would count the steps, but it starts again
at 0 when a thread is resumed, adds two steps to the graph for each model call, and ends the turn with a
sentence about its own counters.
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
from typing import TYPE_CHECKING, Any, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, ToolCallRequest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, ToolCall, ToolMessage
from langchain_core.runnables.config import ensure_config, merge_configs, var_child_runnable_config
from langchain_core.tools import ToolException

from agent.errors import INTERNAL, exit_code
from agent.guard.approval import REFUSED
from agent.turn.context import RunContext, Stop
from agent.turn.messages import since_user
from agent.turn.state import TurnState

if TYPE_CHECKING:
    from langgraph.types import Command

_SAME_CALLS = 2
"""An identical call runs once and is refused once with a hint; the third ends the turn."""
_ERRORS = 2
"""The first failure of a tool in a turn goes to the model, the second ends the turn."""
_POLL_S = 0.05
"""How often a turn that waits for a tool checks whether it was stopped."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_TEXT = "(a result without text)"
"""What the model is told if a tool returns only a picture, or nothing."""


@dataclass(frozen=True, kw_only=True)
class TurnLimits:
    """What one turn may use; times in seconds.

    >>> TurnLimits(steps=3).steps, TurnLimits().tool_seconds
    (3, 60.0)
    """

    steps: int = 12
    seconds: float = 600.0
    tokens: int = 32768
    tool_seconds: float = 60.0
    tool_chars: int = 20000

    def exceeded(self, turn: Sequence[AnyMessage], started: float) -> str | None:
        """Return which limit `turn`, the messages since the user's last one, has reached, or None."""
        steps = [message for message in turn if isinstance(message, AIMessage)]
        tokens = sum(step.usage_metadata["output_tokens"] for step in steps if step.usage_metadata)
        # If a person rejects a call, its tool has not failed.
        errors = [
            m
            for m in turn
            if isinstance(m, ToolMessage) and m.status == "error" and not m.additional_kwargs.get(REFUSED)
        ]
        calls = [_signature(call) for step in steps for call in step.tool_calls]
        if len(steps) >= self.steps:
            return f"{len(steps)} steps are the limit of a turn (max_steps)"
        if time.time() - started > self.seconds:
            return f"{self.seconds:g} s are the limit of a turn (max_seconds)"
        if tokens > self.tokens:
            return f"{self.tokens} tokens are the limit of a turn (max_turn_tokens)"
        if any(calls.count(call) > _SAME_CALLS for call in calls):
            return "the same tool was called again and again with the same arguments"
        if len(errors) >= _ERRORS:
            return "a tool failed twice"
        return None


class ToolTooSlow(TimeoutError):
    """A tool did not answer within the time that the settings give it."""


class Bounds(AgentMiddleware[TurnState, RunContext, Any]):
    """Ends a turn at its limits, and keeps each tool call within its time and size."""

    state_schema = TurnState

    def __init__(self, limits: TurnLimits) -> None:
        super().__init__()
        self._limits = limits

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Call the model unless a limit is reached; cut an answer that begins to repeat itself."""
        if (ended := self._ended(request)) is not None:
            return ended
        watch = RepetitionWatch()
        try:
            with _listening(watch):
                return handler(request)
        except (Repeated, Exception):
            if (cut := watch.cut_answer(request)) is None:
                raise
            return cut

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        if (ended := self._ended(request)) is not None:
            return ended
        watch = RepetitionWatch()
        try:
            with _listening(watch):
                return await handler(request)
        except (Repeated, Exception):
            if (cut := watch.cut_answer(request)) is None:
                raise
            return cut

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Run a tool within its time and shorten its result; raises TimeoutError."""
        if (known := _already_answered(request)) is not None:
            return known
        return self._shortened(_run_in_time(handler, request, self._limits.tool_seconds))

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`, for asynchronous runs."""
        if (known := _already_answered(request)) is not None:
            return known
        seconds = self._limits.tool_seconds
        try:
            async with asyncio.timeout(seconds):
                return self._shortened(await _until_stopped(handler(request), _stop_of(request)))
        except TimeoutError as error:
            raise _too_slow(seconds) from error

    def _ended(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """Return the turn's last answer if a limit is reached."""
        state = cast("TurnState", request.state)
        turn = since_user(state["messages"])
        reason = self._limits.exceeded(turn, state.get("turn_started") or time.time())
        if reason is None:
            return None
        text = f"Stopped: {reason}. {_so_far(turn)}"
        request.runtime.stream_writer({"type": "notice", "kind": "status", "text": f"limit: {reason}"})
        request.runtime.stream_writer({"type": "delta", "text": text})
        return AIMessage(content=text)

    def _shortened(self, result: ToolMessage | Command[Any]) -> ToolMessage | Command[Any]:
        """Return a result as text without control characters, at most `tool_chars` long."""
        if not isinstance(result, ToolMessage):
            return result
        text = _CONTROL.sub("", result.text)
        if not text and not isinstance(result.content, str):
            text = _NO_TEXT
        if len(text) > self._limits.tool_chars:
            cut = len(text) - self._limits.tool_chars
            text = f"{text[: self._limits.tool_chars]}\n[cut here: {cut:,} more characters]"
        return result.model_copy(update={"content": text})


def describe_failure(error: Exception, request: ToolCallRequest) -> str:
    """Return what the model is told when a tool raises; LangChain's ToolErrorMiddleware asks for it.

    The message may become the answer, and the text of an unexpected error can hold a password or a path. So
    only that of a ToolException, which is LangChain's way to speak to the model, and of this project's errors
    is told; that of any other goes to the log `agent.turn.bounds`.
    """
    name = request.tool_call["name"]
    if isinstance(error, ToolException | ToolTooSlow) or exit_code(error) != INTERNAL:
        return _CONTROL.sub("", f"{name} failed: {type(error).__name__}: {error}")[:2000]
    logging.getLogger(__name__).info("the tool %s failed", name, exc_info=error)
    return f"{name} failed: {type(error).__name__}"


def _so_far(turn: Sequence[AnyMessage]) -> str:
    """Return the last results of a turn that is ended early, for the user."""
    results = [m for m in turn if isinstance(m, ToolMessage)]
    if not results:
        return "There is no result yet."
    return "\n".join(["What there is so far:", *(f"{m.name}: {m.text[:2000]}" for m in results[-3:])])


def _signature(call: ToolCall) -> str:
    """Return a text that is equal for calls of the same tool with the same arguments."""
    return f"{call['name']}{sorted(call['args'].items(), key=str)!r}"


def _already_answered(request: ToolCallRequest) -> ToolMessage | None:
    """Refuse a call that has already succeeded in this turn."""
    call = request.tool_call
    turn = since_user(request.state["messages"])
    done = {m.tool_call_id for m in turn if isinstance(m, ToolMessage) and m.status == "success"}
    earlier = [c for m in turn if isinstance(m, AIMessage) for c in m.tool_calls if c["id"] != call["id"]]
    if not any(c["id"] in done and _signature(c) == _signature(call) for c in earlier):
        return None
    text = f"{call['name']} was already called with these arguments. Answer from its result above."
    return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="success")


def _too_slow(seconds: float) -> ToolTooSlow:
    return ToolTooSlow(f"no answer within {seconds:g} s (tool_timeout_s)")


def _run_in_time(
    handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]], request: ToolCallRequest, seconds: float
) -> ToolMessage | Command[Any]:
    """Call `handler` in a daemon thread, which is left behind with TimeoutError if it takes too long."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome.put((context.run(handler, request), None))
        except BaseException as error:  # raised again in the caller's thread
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True, name=f"tool {request.tool_call['name']}").start()
    result, error = _wait(outcome, _stop_of(request), seconds)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _wait(outcome: queue.SimpleQueue[Any], stop: Stop | None, seconds: float) -> Any:
    """Return what the tool's thread puts into the queue; raises TimeoutError, or Stopped."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop is not None:
            stop.check()
        try:
            return outcome.get(timeout=left if stop is None else min(left, _POLL_S))
        except queue.Empty:
            continue
    raise _too_slow(seconds)


async def _until_stopped(work: Awaitable[Any], stop: Stop | None) -> Any:
    """Return the result of `work`, or cancel it and raise Stopped if the turn is ended meanwhile."""
    if stop is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            stop.check()
            await asyncio.wait({task}, timeout=_POLL_S)
        return task.result()
    finally:
        task.cancel()


def _stop_of(request: ToolCallRequest) -> Stop | None:
    context = getattr(request.runtime, "context", None)
    return context.stop if isinstance(context, RunContext) else None


_TIMES, _CHARACTERS = 6, 400
"""A piece of text counts as repeated if it stands there this often and adds up to this many characters: the
refrain of a song and the rule of a table are shorter."""
_KEY = 40


class Repeated(BaseException):
    """An answer repeats itself. Not an Exception: LangChain would log it as a handler's error."""


class RepetitionWatch(BaseCallbackHandler):
    """Listens to one model call and raises Repeated in it once the answer repeats itself."""

    raise_error = True  # LangChain swallows what a handler raises, unless the handler says otherwise.
    run_inline = True

    def __init__(self) -> None:
        self._text = ""
        self._repeated = False

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Add a piece to the answer."""
        self._text += token if isinstance(token, str) else ""
        if repeats(self._text):
            self._repeated = True
            raise Repeated

    def cut_answer(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """Return the answer up to its first repetition, None if the model call failed for another reason.

        In asynchronous runs LangChain's `agenerate` takes Repeated for a result and fails with an
        AttributeError, so the error alone does not tell.
        """
        if not self._repeated:
            return None
        text = "the model repeated itself, so its answer was ended here"
        request.runtime.stream_writer({"type": "notice", "kind": "status", "text": text})
        return AIMessage(content=without_repetition(self._text))


@contextmanager
def _listening(watch: RepetitionWatch) -> Iterator[None]:
    """Add a watch to the callbacks that the model inherits from the graph."""
    config = merge_configs(ensure_config(), {"callbacks": [watch]})
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def repeats(text: str) -> bool:
    """Return whether a text ends with the same piece six times or more, 400 characters at least.

    >>> repeats("and again, " * 50), repeats("La la la. " * 3)
    (True, False)
    """
    return _period(text) is not None


def without_repetition(text: str) -> str:
    """Return the text with the repetition at its end kept once; in the thread it would invite more."""
    period = _period(text)
    if period is None:
        return text
    begin = len(text) - period
    while begin > 0 and text[begin - 1] == text[begin - 1 + period]:
        begin -= 1
    return text[: begin + period].rstrip()


def _period(text: str) -> int | None:
    """Return the length of the piece that the end of a text repeats, None if it repeats none."""
    before = text.rfind(text[-_KEY:], 0, len(text) - 1)
    if before < 0 or len(text) < _CHARACTERS:
        return None
    period = len(text) - len(text[-_KEY:]) - before
    tail = text[-max(_CHARACTERS, _TIMES * period) :]
    return period if len(tail) >= _TIMES * period and tail[period:] == tail[:-period] else None
