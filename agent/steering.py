"""Middleware that plans for a model too small to: the router picks the route, tools and `tool_choice` follow.

One tool call in a turn, or two where a file is to be summarized; what its arguments need and stands in the
message is cut out of it, the rest is filled in by the model under its grammar. Where a tool's result is an
answer by itself (a sum, a program's output, a summary) it ends the turn; where it is material (a file, a
user's own tool) the model answers from it, without further tools. Knows routes and messages; refuses to know
how tools work and who approves them.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NotRequired, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from agent.arguments import plain_arguments
from agent.context import RunContext
from agent.documents import question_of
from agent.notes import asked_to_remember
from agent.opening import Opener
from agent.route_signals import signals
from agent.taint import OWN_INPUT

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from agent.router import Router

TOOL_OF_ROUTE: Mapping[str, str] = {
    "calculator": "calculator",
    "classify": "classify",
    "code": "write_code",
    "file": "read_file",
    "run": "run_python",
    "summarize": "summarize",
}
"""The built-in tool behind each route; `docs` is answered before the model, `direct` needs none."""

ANSWERS_BY_ITSELF = frozenset({"calculator", "classify", "remember", "run_python", "summarize", "write_code"})
"""Beside these, any tool whose metadata has `"answers": True`."""


WAY_OUT: Mapping[str, str] = {
    "docs": "there are no documents here to look it up in; add some: agent ingest PATH",
    "file": "files are not read unless you say where they lie: --files DIR",
}
"""What to say where a message asks for what is not there."""


class RouteState(AgentState[Any]):
    """Adds where this turn goes."""

    route: NotRequired[dict[str, Any] | None]


class Routing(Opener[RouteState]):
    """Decides the route of a turn before anything else; a free planner uses it for the documents alone."""

    state_schema = RouteState

    def __init__(self, router: Router, tools: frozenset[str], *, documents: bool) -> None:
        super().__init__()
        self._router = router
        reachable = {route for route, tool in TOOL_OF_ROUTE.items() if tool in tools}
        self._remembers = "remember" in tools
        self._available = ("direct", *(["docs"] if documents else []), *sorted(reachable))

    def open_turn(self, state: RouteState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Route the user's message and tell why."""
        context = runtime.context or RunContext()
        question = question_of(state)
        if question is None or context.docs == "only" or context.tools == "off":
            return {"route": None}
        if self._remembers and asked_to_remember(question):
            shown = "route remember: the message asks for it in plain words"
            runtime.stream_writer({"type": "notice", "kind": "route", "text": shown})
            return {"route": {"route": "tool", "tool": "remember"}}
        decision = self._router.route(question, available=self._available)
        shown = f"route {decision.tool or decision.route}: {decision.reason}"
        runtime.stream_writer({"type": "notice", "kind": "route", "text": shown})
        way_out = WAY_OUT.get(decision.missing or "")
        if way_out and not (decision.missing == "docs" and context.docs == "off"):
            runtime.stream_writer({"type": "notice", "kind": "status", "text": way_out})
        return {
            "route": {"route": decision.route, "tool": decision.tool or TOOL_OF_ROUTE.get(decision.route)}
        }


class Steering(AgentMiddleware[RouteState, RunContext, Any]):
    """Carries the route out: the one tool and `tool_choice`, then an answer without tools."""

    state_schema = RouteState

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Call the model as the route has it, or answer with what a tool said."""
        return self._spoken(request) or self._call(request) or handler(self._steered(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        return self._spoken(request) or self._call(request) or await handler(self._steered(request))

    def _spoken(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The turn's answer where a tool has already given it, or was not allowed to."""
        results = tool_results(request.messages)
        answering = ANSWERS_BY_ITSELF | {
            tool.name
            for tool in request.tools
            if isinstance(tool, BaseTool) and (tool.metadata or {}).get("answers")
        }
        last = results[-1:]  # what came before it in the turn was its material
        if not last or any(r.status == "success" and r.name not in answering for r in last):
            return None
        text = "\n".join(_said(result) for result in last)
        request.runtime.stream_writer({"type": "delta", "text": text})
        return AIMessage(content=text)

    def _routed(self, request: ModelRequest[RunContext]) -> BaseTool | None:
        """The tool of this turn's route, where it is still to be called."""
        route = cast("dict[str, Any] | None", request.state.get("route"))
        name = (route or {}).get("tool")
        context = request.runtime.context or RunContext()
        if name is None or context.tools == "off" or tool_results(request.messages):
            return None
        return next(
            (tool for tool in request.tools if isinstance(tool, BaseTool) and tool.name == name), None
        )

    def _call(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The tool call that needs no model: its arguments stand in the message, or in the file just read."""
        tool = self._routed(request)
        question = question_of(cast("Any", {"messages": request.messages}))
        if tool is None or question is None:
            return self._summary_of_a_file(request)
        args = plain_arguments(tool.name, question)
        return _calling(tool.name, args) if args is not None else None

    def _summary_of_a_file(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The call of `summarize` on the file that was read, where a summary was asked for."""
        results = tool_results(request.messages)
        asked = next((m for m in reversed(request.messages) if isinstance(m, HumanMessage)), None)
        offered = any(isinstance(tool, BaseTool) and tool.name == "summarize" for tool in request.tools)
        if not offered or [r.name for r in results] != ["read_file"] or asked is None:
            return None
        own = str(asked.additional_kwargs.get(OWN_INPUT) or asked.text)
        return _calling("summarize", {"text": results[0].text}) if signals(own)["sum_words"] else None

    def _steered(self, request: ModelRequest[RunContext]) -> ModelRequest[RunContext]:
        tool = self._routed(request)
        if tool is None:
            return request.override(tools=[], tool_choice=None)
        return request.override(tools=[tool], tool_choice=tool.name)


def _calling(name: str, args: dict[str, Any]) -> AIMessage:
    call = ToolCall(name=name, args=args, id=uuid.uuid4().hex[:9], type="tool_call")
    return AIMessage(content="", tool_calls=[call])


def _said(result: ToolMessage) -> str:
    """A result as the user is told it; LangChain words rejections and edits for the model."""
    if result.status == "error" and result.text.startswith("User rejected the tool call"):
        return f"{result.name} was not called: {result.text.partition('with reason: ')[2] or 'not allowed.'}"
    if result.text.startswith("Note: a human reviewer replaced this tool call"):
        return result.text.partition("Tool response:")[2].strip()
    return result.text


def tool_results(messages: list[AnyMessage]) -> list[ToolMessage]:
    """What tools have said since the user last spoke."""
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, ToolMessage):
            results.append(message)
    return results[::-1]
