"""The planner: where a turn goes, and its steps if the model is too small to choose them.

Each turn is routed once (`route`). For a capable model the route only decides whether the documents are
asked. For a small one the planner is mounted as middleware, too: it calls the route's tool with the arguments
that stand in the message, answers questions about a text out of the text itself, and otherwise offers the
model that one tool, or none. A turn has one tool call, or two if a file is read and summarized.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from agent.guard.labels import own_words
from agent.planner.arguments import named_file, plain_arguments, shows, wants_summary, wants_writing
from agent.planner.router import TOOL_OF_ROUTE, RouteDecision
from agent.storage.notes import asked_to_remember
from agent.turn.context import RunContext
from agent.turn.messages import (
    READER,
    attached_text,
    before_turn,
    history,
    question_of,
    since_user,
    text_at_hand,
    tool_results,
)
from agent.turn.state import TurnRoute, TurnState

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from agent.planner.text_answers import TextAnswers

_RESULT_ANSWERS = frozenset({"calculator", "classify", "remember", "run_python", "summarize", "write_code"})
_FILE_ROUTES = frozenset({"direct", "docs", "file", "summarize"})
"""Routes that give way to a file which the message names; a request for a program may name one, too."""
_WAY_OUT = {
    "docs": "there are no documents here to look it up in; add some: agent ingest PATH",
    "file": "files are not read unless you say where they lie: --files DIR",
}
"""What to say if a message asks for what is not there."""
_SHOWN_CHARS = 2000
"""A file up to this long is shown if its content is asked for; a longer one is summarized."""


class MessageRouter(Protocol):
    """What the planner needs of `agent.planner.router.Router`."""

    def route(self, message: str, *, available: Sequence[str]) -> RouteDecision:
        """Return the route of a message among those that are available."""
        ...


class Planner(AgentMiddleware[TurnState, RunContext, Any]):
    """Routes each turn and, with `calls_tools`, takes the steps that a small model cannot choose.

    Args:
        router: Decides the route of a message.
        calls_tools: Mount the planner in front of the model. If False, it only routes.
        texts: Answers questions about a text; without it the model does.
        folders: Folders whose files may be read.
    """

    state_schema = TurnState

    def __init__(
        self,
        router: MessageRouter,
        *,
        calls_tools: bool = True,
        texts: TextAnswers | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        super().__init__()
        self.calls_tools = calls_tools
        self._router, self._texts, self._folders = router, texts, folders

    def prepared(self, tools: Sequence[BaseTool]) -> list[BaseTool]:
        """Return the tools; those whose result answers the message end the turn with it (`return_direct`).

        These are some built-in ones, and any tool whose metadata has `"answers": True`. A capable model gets
        its tools as they are, because it may need a sum as one step of several.
        """
        if not self.calls_tools:
            return list(tools)
        return [
            tool.model_copy(update={"return_direct": True})
            if tool.name in _RESULT_ANSWERS or (tool.metadata or {}).get("answers")
            else tool
            for tool in tools
        ]

    def route(
        self, state: TurnState, runtime: Runtime[RunContext], *, tools: frozenset[str], documents: bool
    ) -> TurnRoute | None:
        """Return the route of the turn, with a notice of the reason; None if there is nothing to decide."""
        context = runtime.context or RunContext()
        question = question_of(state["messages"][-1:])
        if question is None or context.docs == "only" or context.tools == "off":
            return None
        if "remember" in tools and asked_to_remember(own_words(state["messages"][-1])):
            return _announced(runtime, "remember", "remember", "the message asks for it in plain words")
        decision = self._router.route(question, available=available_routes(tools, documents=documents))
        attached = bool(attached_text(state["messages"][-1]))
        if not attached and (name := self._named_file(question, decision)) is not None:
            tool = READER if READER in tools else None
            why = f"the message names {name}, which is there"
            return {**_announced(runtime, READER if tool else "file", tool, why), "file": name}
        tool = decision.tool or TOOL_OF_ROUTE.get(decision.route)
        route = _announced(runtime, decision.tool or decision.route, tool, decision.reason)
        way_out = None if attached else _WAY_OUT.get(decision.missing or "")
        if way_out and not (decision.missing == "docs" and context.docs == "off"):
            runtime.stream_writer({"type": "notice", "kind": "status", "text": way_out})
        return route

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Take the next step without the model if possible, else call it with the route's tool alone."""
        return self._step(request) or handler(self._narrowed(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        return await asyncio.to_thread(self._step, request) or await handler(self._narrowed(request))

    def _named_file(self, question: str, decision: RouteDecision) -> str | None:
        """Return the file that the turn is about, if the message names one that is there."""
        if not self.calls_tools or decision.tool:
            return None
        wanted = decision.missing or decision.route
        return named_file(question, self._folders) if wanted in _FILE_ROUTES else None

    def _step(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """Return the next call, or an answer that needs no writing; None if the model has to speak."""
        results = tool_results(request.messages)
        if results and results[-1].status == "error":
            # A small model makes up what the tool did not say.
            return _answer(request, results[-1].text, failed=results[-1].name or "")
        route = _route_of(request)
        file = route.get("file") if route else None
        if route and file and not route["tool"]:
            return _answer(request, _not_read(file))
        question, text = question_of(request.messages), text_at_hand(request.messages)
        if question is None:
            return None
        if (tool := _next_tool(request)) is not None:
            attached = text.text if text is not None and text.fresh else ""
            args = plain_arguments(tool.name, question, attached=attached, file=file)
            return _call(tool.name, args) if args is not None else None
        if text is None:
            return None
        if text.fresh and text.read and shows(question) and len(text.text) <= _SHOWN_CHARS:
            return _answer(request, text.text)
        summarized = any(result.name == "summarize" for result in results)
        if text.fresh and not summarized and wants_summary(question) and _offered(request, "summarize"):
            return _call("summarize", {"text": text.text})
        if self._texts is None or wants_writing(question):
            return None
        return self._texts.answer(question, text, history(request.messages), request.runtime)

    def _narrowed(self, request: ModelRequest[RunContext]) -> ModelRequest[RunContext]:
        """Return the request with the route's tool alone, and without the calls of earlier turns."""
        tool = _next_tool(request)
        turn = request.messages[-1 - len(since_user(request.messages)) :]
        messages = [*_without_direct_calls(request), *turn]
        if tool is None:
            return request.override(messages=messages, tools=[], tool_choice=None)
        return request.override(messages=messages, tools=[tool], tool_choice=tool.name)


def available_routes(tools: frozenset[str], *, documents: bool) -> tuple[str, ...]:
    """Return the routes that a turn can take with these tools.

    >>> available_routes(frozenset({"calculator", "look"}), documents=True)
    ('direct', 'docs', 'calculator')
    """
    reachable = sorted(route for route, tool in TOOL_OF_ROUTE.items() if tool in tools)
    return ("direct", *(["docs"] if documents else []), *reachable)


def _announced(runtime: Runtime[RunContext], route: str, tool: str | None, why: str) -> TurnRoute:
    runtime.stream_writer({"type": "notice", "kind": "route", "text": f"route {route}: {why}"})
    return {"route": route, "tool": tool}


def _route_of(request: ModelRequest[RunContext]) -> TurnRoute | None:
    context = request.runtime.context or RunContext()
    return None if context.tools == "off" else cast("TurnState", request.state).get("route")


def _next_tool(request: ModelRequest[RunContext]) -> BaseTool | None:
    """Return the tool of the turn's route if it is still to be called."""
    route = _route_of(request)
    if route is None or route["tool"] is None or tool_results(request.messages):
        return None
    return _offered(request, route["tool"])


def _offered(request: ModelRequest[RunContext], name: str) -> BaseTool | None:
    tools = (tool for tool in request.tools if isinstance(tool, BaseTool))
    return next((tool for tool in tools if tool.name == name), None)


def _without_direct_calls(request: ModelRequest[RunContext]) -> list[AnyMessage]:
    """Return the earlier turns without the calls whose result was the answer.

    A small model that has seen a call writes calls itself: asked for a capital after a sum, it called the
    calculator.
    """
    tools = [tool for tool in request.tools if isinstance(tool, BaseTool)]
    direct = {tool.name for tool in tools if tool.return_direct} | _RESULT_ANSWERS
    return [message for message in before_turn(request.messages) if not _belongs_to_call(message, direct)]


def _belongs_to_call(message: AnyMessage, names: set[str] | frozenset[str]) -> bool:
    if isinstance(message, ToolMessage):
        return message.name in names
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return bool(calls) and all(call["name"] in names for call in calls)


def _answer(request: ModelRequest[RunContext], text: str, failed: str = "") -> AIMessage:
    """Return the answer; `failed` names the tool whose error it is."""
    request.runtime.stream_writer({"type": "delta", "text": text})
    return AIMessage(content=text, additional_kwargs={"failed": failed} if failed else {})


def _call(name: str, args: dict[str, Any]) -> AIMessage:
    call = ToolCall(name=name, args=args, id=uuid.uuid4().hex[:9], type="tool_call")
    return AIMessage(content="", tool_calls=[call])


def _not_read(name: str) -> str:
    return (
        f"{name} was not read: files are read only below folders that you allow. "
        f"Start with `--files {PurePath(name).parent!s}`, or ask about this one: `agent ask -f {name} …`"
    )
