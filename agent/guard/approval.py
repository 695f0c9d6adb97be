"""Middleware that asks a person before a tool acts: LangChain's human in the loop under our policy.

A call that the policy allows runs; one that it denies is answered with the reason; for one that it asks
about the run stops in a LangGraph interrupt (it survives a restart while it waits) which shows exactly what
will happen. Knows interrupts and tool calls; `agent.guard.policy` decides.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, cast

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    HumanInTheLoopMiddleware,
    InterruptOnConfig,
    ToolCallRequest,
)
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from agent.guard.policy import Judgement, Kind, describe, judge, kind_of
from agent.turn.context import RunContext

if TYPE_CHECKING:
    from langgraph.types import Command

Approve = Literal["ask", "deny", "never-ask"]
Result = "ToolMessage | Command[Any]"


class ApprovalState(AgentState[Any]):
    """Adds the tools that the user has allowed for this thread."""

    allowed_tools: NotRequired[Annotated[list[str], operator.add]]


class Gate(AgentMiddleware[ApprovalState, RunContext, Any]):
    """Refuses what the policy denies; stands outside `asking`, which handles what it asks about."""

    state_schema = ApprovalState

    def __init__(self, tools: Sequence[BaseTool], *, approve: Approve, sandboxed: bool) -> None:
        super().__init__()
        self._kinds: Mapping[str, Kind] = {tool.name: kind_of(tool, sandboxed=sandboxed) for tool in tools}
        self._approve = approve

    def judge_call(self, call: ToolCall, state: Any, context: RunContext | None) -> Judgement:
        """What the policy says of one call in this state."""
        return judge(
            name=call["name"],
            kind=self._kinds.get(call["name"], "write"),
            args=call["args"],
            messages=state.get("messages", []),
            approve=(context.approve if context is not None else None) or self._approve,
            always=state.get("allowed_tools") or (),
        )

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Run the tool unless the policy denies it."""
        return self._refused(request) or handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`, for asynchronous runs."""
        return self._refused(request) or await handler(request)

    def _refused(self, request: ToolCallRequest) -> ToolMessage | None:
        call = request.tool_call
        found = self.judge_call(call, request.state, _context(request))
        if found.verdict != "deny":
            return None
        # Untrusted text in the conversation: then no setting may stand in for a person.
        unasked = "" if found.origins else "; to allow such calls unasked: --approve never-ask"
        text = (
            f"Not done, it needs approval. {describe(call['name'], call['args'], found)}\n"
            f"To be asked, use a terminal (--approve ask){unasked}."
        )
        return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="error")


def asking(gate: Gate, tools: Sequence[BaseTool]) -> HumanInTheLoopMiddleware[Any, Any, Any]:
    """LangChain's own middleware, which interrupts for the calls that `gate` asks about."""

    def when(request: ToolCallRequest) -> bool:
        return gate.judge_call(request.tool_call, request.state, _context(request)).verdict == "ask"

    def description(tool_call: ToolCall, state: Any, runtime: Any) -> str:
        found = gate.judge_call(tool_call, state, getattr(runtime, "context", None))
        return describe(tool_call["name"], tool_call["args"], found)

    config = InterruptOnConfig(
        allowed_decisions=["approve", "edit", "reject"], description=cast("Any", description), when=when
    )
    return HumanInTheLoopMiddleware(
        interrupt_on={tool.name: config for tool in tools}, interrupt_mode="per_call"
    )


def _context(request: ToolCallRequest) -> RunContext | None:
    return cast("RunContext | None", getattr(request.runtime, "context", None))
