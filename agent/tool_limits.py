"""Middleware that bounds each tool call: its time, what it returns and raises, and that it is not repeated.

Whatever a tool does becomes a message of bounded size, or an error that goes back to the model. Knows calls
and clocks; refuses to know what a tool does, and how many calls a turn may make (LangChain's
ToolCallLimitMiddleware counts them).
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ToolCallRequest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from agent.context import RunContext
from agent.limits import TurnLimits, call_signature, since_user
from agent.stop import Stop

if TYPE_CHECKING:
    from langgraph.types import Command

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
