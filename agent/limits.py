"""Middleware that bounds a turn: steps, time, tokens, calls made again and again, tools that fail.

A turn that reaches a limit is answered with what it has and says so. Knows counts and clocks; refuses to know
what a tool does. `agent.tool_limits` bounds each call, LangChain's own ToolCallLimitMiddleware counts them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, cast

from langchain.agents.middleware import AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agent.context import RunContext
from agent.opening import Opener

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

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


class LimitState(AgentState[Any]):
    """Adds when this turn began, in seconds since the epoch, so that it survives a restart."""

    turn_started: NotRequired[float]


class Limits(Opener[LimitState]):
    """Ends a turn at its limits."""

    state_schema = LimitState

    def __init__(self, limits: TurnLimits) -> None:
        super().__init__()
        self._limits = limits

    def open_turn(self, state: LimitState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Start the turn's clock."""
        return {"turn_started": time.time()}

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
        reason = self._reached(turn, state.get("turn_started", time.time()))
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
