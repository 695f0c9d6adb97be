"""Middleware that bounds a turn: steps, time, tokens, repeated calls, failing or hanging tools, huge results.

A turn that reaches a limit is answered with what it has and says so; a tool's error goes back to the model
once, then to the user. Knows counts and clocks; refuses to know what a tool does. LangChain's own
ToolCallLimitMiddleware counts the tool calls beside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ToolCallRequest, hook_config
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from agent.context import RunContext
from agent.stop import Stop

if TYPE_CHECKING:
    from langgraph.runtime import Runtime
    from langgraph.types import Command

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SAME_CALLS = 2
"""An identical call is made once and refused once with a hint; the third ends the turn."""
_LOOK_S = 0.05
"""How often a waiting turn looks whether it was stopped: Ctrl-C is answered at once, and it costs nothing."""
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


class LimitState(AgentState[Any]):
    """Adds when this turn began, in seconds since the epoch, so that it survives a restart."""

    turn_started: NotRequired[float]


class Limits(AgentMiddleware[LimitState, RunContext, Any]):
    """Ends a turn at its limits and keeps tools within theirs."""

    state_schema = LimitState

    def __init__(self, limits: TurnLimits) -> None:
        super().__init__()
        self._limits = limits

    def before_agent(self, state: LimitState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Start the turn's clock."""
        return {"turn_started": time.time()}

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: LimitState, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """End the turn where a limit is reached."""
        turn = since_user(state["messages"])
        reason = self._reached(turn, state.get("turn_started", time.time()))
        if reason is None:
            return None
        text = f"Stopped: {reason}. {_what_there_is(turn)}"
        runtime.stream_writer({"type": "notice", "kind": "status", "text": f"limit: {reason}"})
        runtime.stream_writer({"type": "delta", "text": text})
        return {"messages": [AIMessage(content=text)], "jump_to": "end"}

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
                return self._bounded(await handler(request))
        except GraphBubbleUp:
            raise
        except TimeoutError:
            return _failed(request, _too_slow(self._limits.tool_seconds))
        except Exception as error:  # as above
            return _failed(request, error)

    def _reached(self, turn: Sequence[AnyMessage], started: float) -> str | None:
        steps = sum(isinstance(m, AIMessage) for m in turn)
        usages = [m.usage_metadata for m in turn if isinstance(m, AIMessage) and m.usage_metadata]
        tokens = sum(usage["output_tokens"] for usage in usages)
        errors = [m for m in turn if isinstance(m, ToolMessage) and m.status == "error"]
        calls = [_signature(c) for m in turn if isinstance(m, AIMessage) for c in m.tool_calls]
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

    def _repeated(self, request: ToolCallRequest) -> ToolMessage | None:
        """Refuse a call that was already answered in this turn."""
        call = request.tool_call
        turn = since_user(request.state["messages"])
        answered = {m.tool_call_id for m in turn if isinstance(m, ToolMessage) and m.status == "success"}
        earlier = [c for m in turn if isinstance(m, AIMessage) for c in m.tool_calls if c["id"] != call["id"]]
        if not any(c["id"] in answered and _signature(c) == _signature(call) for c in earlier):
            return None
        text = f"{call['name']} was already called with these arguments. Answer from its result above."
        return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="success")

    def _bounded(self, result: ToolMessage | Command[Any]) -> ToolMessage | Command[Any]:
        """The result as harmless text of bounded length; a `Command` passes as it is."""
        if not isinstance(result, ToolMessage):
            return result
        text = _CONTROL.sub("", result.text)
        if len(text) > self._limits.tool_chars:
            cut = len(text) - self._limits.tool_chars
            text = f"{text[: self._limits.tool_chars]}\n[cut here: {cut:,} more characters]"
        return result.model_copy(update={"content": text})


def since_user(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The messages after the user's last one."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=-1)
    return list(messages[last + 1 :])


def _signature(call: Any) -> str:
    return f"{call['name']}{sorted(call['args'].items(), key=str)!r}"


def _failed(request: ToolCallRequest, error: BaseException) -> ToolMessage:
    call = request.tool_call
    text = _CONTROL.sub("", f"{call['name']} failed: {type(error).__name__}: {error}")[:2000]
    return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="error")


def _too_slow(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} s (tool_timeout_s)")


def _what_there_is(turn: Sequence[AnyMessage]) -> str:
    """What the turn has come to so far, for the user."""
    results = [m for m in turn if isinstance(m, ToolMessage)]
    if not results:
        return "There is no result yet."
    return "\n".join(["What there is so far:", *(f"{m.name}: {m.text[:2000]}" for m in results[-3:])])


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
    stop = getattr(getattr(request.runtime, "context", None), "stop", None)
    result, error = _waited(answer, stop, seconds)
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
