"""Middleware that applies the policy to each tool call, and asks a person if the policy says so.

LangChain's HumanInTheLoopMiddleware asks the same question, but words a rejection for the model alone, and
adds a step to the graph for each model call. Here a rejection is worded for its reader: the user if the
tool's result would have been the answer, else the model.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any, Literal, NotRequired, cast

from langchain.agents.middleware import AgentMiddleware, ToolCallRequest
from langchain.agents.middleware.human_in_the_loop import EditDecision, RejectDecision
from langchain_core.messages import BaseMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command, interrupt
from pydantic import AfterValidator, BeforeValidator, Discriminator
from typing_extensions import TypedDict

from agent.guard.labels import CLEAN, Labels, labelled, labels_of
from agent.guard.policy import Approve, Judgement, Scope, ToolRule, describe, judge, rule_of
from agent.turn.context import RunContext
from agent.turn.state import TurnState, clock_started

REFUSED = "refused"
"""Key in the `additional_kwargs` of the tool message of a call that was denied or rejected."""

_UNKNOWN = ToolRule()
"""The rule of a tool that was added after the graph was built: it writes, and reaches outside."""


class Approved(TypedDict):
    """A person's answer that allows a call, with `always` also later calls of the same tool in this thread.

    `clean` covers calls while the conversation has no untrusted text, `untrusted` also those with such text.
    No answer covers a call that reaches outside while untrusted or private text is there.
    """

    type: Literal["approve"]
    always: NotRequired[Scope]


class GuardState(TurnState):
    """Adds what the user has allowed in this thread: grants, as `ToolRule.grant` writes them."""

    allowed_tools: NotRequired[Annotated[list[str], operator.add]]


class Guard(AgentMiddleware[GuardState, RunContext, Any]):
    """Runs a call that the policy allows, refuses one that it denies, and asks about the rest.

    To ask, the run stops in a LangGraph interrupt that shows exactly what will happen. It survives a restart
    and goes on with `Command(resume={id: {"type": "approve"}})`; see `Approved` for `always`. The other
    answers are `reject`, with a `message`, and `edit`, with an `edited_action` of the same name. LangChain's
    form `{"decisions": [answer]}` is understood as well.
    """

    state_schema = GuardState

    def __init__(
        self, tools: Sequence[BaseTool], *, approve: Approve, agent_node: str, standing: Labels = CLEAN
    ) -> None:
        """Guard `tools`.

        Args:
            tools: The tools that the model is offered.
            approve: What happens to a call that needs approval, unless the turn says otherwise.
            agent_node: The node to which a failed call returns.
            standing: Labels of what the model reads in every turn, such as the notes in the system prompt.
        """
        super().__init__()
        self._rules: Mapping[str, ToolRule] = {tool.name: rule_of(tool) for tool in tools}
        described = tuple(rule.described_by for rule in self._rules.values() if rule.described_by)
        self._standing = standing | Labels(untrusted=described)
        self._approve: Approve = approve
        self._agent_node = agent_node

    def judge_call(self, call: ToolCall, state: Any, context: RunContext | None) -> Judgement:
        """Return the policy's judgement of one call."""
        messages = state.get("messages", [])
        # A turn keeps the setting that it began with. A call that waits for a person is therefore still asked
        # about when the turn is resumed under another setting, and the person's answer counts.
        chosen = state.get("approve") or (context.approve if context is not None else None) or self._approve
        return judge(
            self._rules.get(call["name"], _UNKNOWN),
            call["args"],
            self._standing | labels_of(messages),
            messages,
            approve=chosen,
            allowed=state.get("allowed_tools") or (),
        )

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Run the call, as the person edited it, unless it is denied or rejected."""
        decided, update = self._decided(request)
        result = decided if isinstance(decided, ToolMessage) else handler(decided)
        return self._finished(request, decided, result, update)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """As `wrap_tool_call`, for asynchronous runs."""
        decided, update = self._decided(request)
        result = decided if isinstance(decided, ToolMessage) else await handler(decided)
        return self._finished(request, decided, result, update)

    def _decided(self, request: ToolCallRequest) -> tuple[ToolCallRequest | ToolMessage, dict[str, Any]]:
        """Return the call to run, or the message that says why it does not run, and a change of the state."""
        call = request.tool_call
        if request.tool is None:  # The model made up a name; LangChain tells it which tools there are.
            return request, {}
        context = cast("RunContext | None", getattr(request.runtime, "context", None))
        found = self.judge_call(call, request.state, context)
        if found.verdict == "allow":
            return request, {}
        description = describe(call["name"], call["args"], found)
        if found.verdict == "deny":
            request.runtime.stream_writer({"type": "notice", "kind": "denied", "text": description})
            return _refusal(call, f"{call['name']} was not called: it needs a person's approval."), {}
        question = {
            "type": "tool_approval",
            "tool_call_id": call["id"],
            "name": call["name"],
            "args": call["args"],
            "description": description,
            "always": found.always,
        }
        # LangGraph checks an answer against the schema before it is saved; a bad one can be given again.
        answer: Any = interrupt(question, response_schema=_answers_about(call["name"]))
        update = clock_started()  # The time that the person took is not the turn's.
        if answer["type"] == "edit":
            return request.override(tool_call={**call, "args": answer["edited_action"]["args"]}), update
        if answer["type"] == "reject":
            return _refusal(call, _rejection(request, answer.get("message"))), update
        scope = answer.get("always")
        if found.always and scope in ("untrusted", found.always):
            update["allowed_tools"] = [found.rule.grant(scope)]
        return request, update

    def _finished(
        self,
        request: ToolCallRequest,
        decided: ToolCallRequest | ToolMessage,
        result: ToolMessage | Command[Any],
        update: dict[str, Any],
    ) -> ToolMessage | Command[Any]:
        """Label the result, tell the model about an edit, and let a failed call go back to it.

        What was granted reaches the state together with the result, after every call of this step has been
        judged: "always" for one call does not decide about another one that the user rejects.
        """
        called = request.tool is not None and isinstance(decided, ToolCallRequest)
        rule = self._rules.get(request.tool_call["name"], _UNKNOWN)
        labels = rule.result_labels(request.tool_call["name"]) if called else CLEAN
        if not isinstance(result, ToolMessage):
            return _labelled_update(result, labels)
        direct = request.tool is not None and request.tool.return_direct
        if isinstance(decided, ToolCallRequest) and decided is not request and not direct:
            edited = f"The user changed the arguments of this call to {decided.tool_call['args']!r}."
            result = result.model_copy(update={"content": f"{edited} Its result:\n{result.text}"})
        result = labelled(_plain(result), labels)
        if direct and result.status == "error":
            # LangChain ends the turn after a tool with `return_direct` even if the tool failed.
            return Command(update={"messages": [result], **update}, goto=self._agent_node)
        return Command(update={"messages": [result], **update}) if update else result


def _plain(result: ToolMessage) -> ToolMessage:
    """Return the message with plain data in place of a dataclass, such as the `Answer` of `search_docs`.

    A checkpointer of LangGraph's warns about classes that it does not know, and refuses them in strict mode.
    """
    artifact = result.artifact
    if not is_dataclass(artifact) or isinstance(artifact, type):
        return result
    return result.model_copy(update={"artifact": asdict(artifact)})


def _labelled_update(result: Command[Any], labels: Labels) -> Command[Any]:
    """Return the update of a tool with the labels on each message in it."""
    update = result.update
    if not isinstance(update, dict) or not isinstance(update.get("messages"), list):
        return result
    messages = [labelled(m, labels) if isinstance(m, BaseMessage) else m for m in update["messages"]]
    return Command(
        graph=result.graph, update={**update, "messages": messages}, resume=result.resume, goto=result.goto
    )


def _answers_about(name: str) -> Any:
    """Return the type of the answers that a person may give about a call of the tool `name`."""

    def same_tool(edit: EditDecision) -> EditDecision:
        if edit["edited_action"]["name"] != name:
            raise ValueError(f"expected an edited call of {name!r}, found {edit['edited_action']['name']!r}")
        return edit

    edit = Annotated[EditDecision, AfterValidator(same_tool)]
    one = Annotated[Approved | edit | RejectDecision, Discriminator("type")]
    return Annotated[one, BeforeValidator(_only_decision)]


def _only_decision(answer: Any) -> Any:
    """Return the answer inside LangChain's form of it, which is a list with one decision for each call."""
    if isinstance(answer, Mapping) and set(answer) == {"decisions"}:
        if len(answer["decisions"]) != 1:
            raise ValueError(f"expected one decision for one call, found {len(answer['decisions'])}")
        return answer["decisions"][0]
    return answer


def _rejection(request: ToolCallRequest, reason: str | None) -> str:
    name = request.tool_call["name"]
    if request.tool is not None and request.tool.return_direct:  # The user reads it.
        return f"{name} was not called: {reason or 'not allowed.'}"
    return f"The user rejected the tool call of {name}, so it did not run. Reason: {reason or 'none given'}"


def _refusal(call: ToolCall, text: str) -> ToolMessage:
    return ToolMessage(
        content=text,
        name=call["name"],
        tool_call_id=call["id"] or "",
        status="error",
        additional_kwargs={REFUSED: True},
    )
