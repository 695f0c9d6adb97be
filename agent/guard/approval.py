"""Middleware that applies the policy to each tool call, and asks a person if the policy says so.

LangChain's HumanInTheLoopMiddleware asks the same question, but words a rejection for the model alone, and
adds a step to the graph for each model call. Here a rejection is worded for its reader: the user if the
tool's result would have been the answer, else the model.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, cast

from langchain.agents.middleware import AgentMiddleware, ToolCallRequest
from langchain.agents.middleware.human_in_the_loop import ApproveDecision, EditDecision, RejectDecision
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command, interrupt
from pydantic import AfterValidator, Discriminator

from agent.guard.policy import Judgement, Kind, describe, judge, kind_of
from agent.turn.context import RunContext
from agent.turn.state import TurnState

Approve = Literal["ask", "deny", "never-ask"]


class GuardState(TurnState):
    """Adds the tools that the user has allowed for this thread."""

    allowed_tools: NotRequired[Annotated[list[str], operator.add]]


class Guard(AgentMiddleware[GuardState, RunContext, Any]):
    """Runs a call that the policy allows, refuses one that it denies, and asks about the rest.

    To ask, the run stops in a LangGraph interrupt that shows exactly what will happen. It survives a restart
    and goes on with `Command(resume={id: {"type": "approve"}})`; the other answers are `reject`, with a
    `message`, and `edit`, with an `edited_action` of the same name.
    """

    state_schema = GuardState

    def __init__(
        self, tools: Sequence[BaseTool], *, approve: Approve, sandboxed: bool, agent_node: str
    ) -> None:
        """Guard `tools`. `agent_node` is the node to which a failed call returns."""
        super().__init__()
        self._kinds: Mapping[str, Kind] = {tool.name: kind_of(tool, sandboxed=sandboxed) for tool in tools}
        self._approve = approve
        self._agent_node = agent_node

    def judge_call(self, call: ToolCall, state: Any, context: RunContext | None) -> Judgement:
        """Return the policy's judgement of one call."""
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
        """Run the call, as the person edited it, unless it is denied or rejected."""
        decided = self._decided(request)
        result = decided if isinstance(decided, ToolMessage) else handler(decided)
        return self._finished(request, decided, result)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`, for asynchronous runs."""
        decided = self._decided(request)
        result = decided if isinstance(decided, ToolMessage) else await handler(decided)
        return self._finished(request, decided, result)

    def _decided(self, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
        """Return the call to run, or the message that says why it does not run."""
        call = request.tool_call
        context = cast("RunContext | None", getattr(request.runtime, "context", None))
        found = self.judge_call(call, request.state, context)
        if found.verdict == "allow":
            return request
        description = describe(call["name"], call["args"], found)
        if found.verdict == "deny":
            # With untrusted text in the conversation no setting may stand in for a person.
            unasked = "" if found.origins else "; to allow such calls unasked: --approve never-ask"
            return _refusal(
                call,
                f"Not done, it needs approval. {description}\n"
                f"To be asked, use a terminal (--approve ask){unasked}.",
            )
        question = {
            "type": "tool_approval",
            "tool_call_id": call["id"],
            "name": call["name"],
            "args": call["args"],
            "description": description,
        }
        # LangGraph checks an answer against the schema before it is saved; a bad one can be given again.
        answer: Any = interrupt(question, response_schema=_answers_about(call["name"]))
        if answer["type"] == "edit":
            return request.override(tool_call={**call, "args": answer["edited_action"]["args"]})
        if answer["type"] == "reject":
            return _refusal(call, _rejection(request, answer.get("message")))
        return request

    def _finished(
        self,
        request: ToolCallRequest,
        decided: ToolCallRequest | ToolMessage,
        result: ToolMessage | Command[Any],
    ) -> ToolMessage | Command[Any]:
        """Tell the model about an edit, and let a failed call go back to it."""
        if not isinstance(result, ToolMessage):
            return result
        direct = request.tool is not None and request.tool.return_direct
        if isinstance(decided, ToolCallRequest) and decided is not request and not direct:
            edited = f"The user changed the arguments of this call to {decided.tool_call['args']!r}."
            result = result.model_copy(update={"content": f"{edited} Its result:\n{result.text}"})
        if direct and result.status == "error":
            # LangChain ends the turn after a tool with `return_direct` even if the tool failed.
            return Command(update={"messages": [result]}, goto=self._agent_node)
        return result


def _answers_about(name: str) -> Any:
    """Return the type of the answers that a person may give about a call of the tool `name`."""

    def same_tool(edit: EditDecision) -> EditDecision:
        if edit["edited_action"]["name"] != name:
            raise ValueError(f"expected an edited call of {name!r}, found {edit['edited_action']['name']!r}")
        return edit

    edit = Annotated[EditDecision, AfterValidator(same_tool)]
    return Annotated[ApproveDecision | edit | RejectDecision, Discriminator("type")]


def _rejection(request: ToolCallRequest, reason: str | None) -> str:
    name = request.tool_call["name"]
    if request.tool is not None and request.tool.return_direct:  # The user reads it.
        return f"{name} was not called: {reason or 'not allowed.'}"
    return f"The user rejected the tool call of {name}, so it did not run. Reason: {reason or 'none given'}"


def _refusal(call: ToolCall, text: str) -> ToolMessage:
    return ToolMessage(content=text, name=call["name"], tool_call_id=call["id"] or "", status="error")
