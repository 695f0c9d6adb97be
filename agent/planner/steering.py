"""Middleware that plans for a model too small to: the router picks the route, tools and `tool_choice` follow.

One tool call in a turn, or two where a file is to be summarized; what its arguments need and stands in the
message is cut out of it, the rest is filled in by the model under its grammar. Where a tool's result is an
answer by itself (a sum, a program's output, a summary) it ends the turn; where it is material (a file, a
user's own tool) the text itself answers where it can, else the model, without further tools. Knows routes and
messages; refuses to know how tools work and who approves them.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import Any, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from agent.planner.arguments import plain_arguments, shows, wants_summary, wants_writing
from agent.planner.routing import RouteState
from agent.planner.text_answers import TextAnswers, TextQuestion
from agent.turn.context import RunContext
from agent.turn.text_at_hand import own_words, spoken, text_at_hand, tool_results

ANSWERS_BY_ITSELF = frozenset({"calculator", "classify", "remember", "run_python", "summarize", "write_code"})
"""Beside these, any tool whose metadata has `"answers": True`."""
_SHOWN_CHARS = 2000
"""A file up to this long is shown where its content is asked for; of a longer one a summary is."""


class Steering(AgentMiddleware[RouteState, RunContext, Any]):
    """Carries the route out: the one tool and `tool_choice`, then an answer without tools."""

    state_schema = RouteState

    def __init__(self, texts: TextAnswers | None = None) -> None:
        """`texts` answers questions about a text; without it the model does."""
        super().__init__()
        self._texts = texts

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Call the model as the route has it, or answer with what a tool or a text said."""
        if (planned := self._planned(request)) is not None:
            return planned
        asked = self._about_a_text(request)
        if self._texts is not None and asked is not None:
            if (answer := self._texts.answer(asked, request.runtime)) is not None:
                return answer
        return handler(self._steered(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        if (planned := self._planned(request)) is not None:
            return planned
        asked = self._about_a_text(request)
        if self._texts is not None and asked is not None:
            if (answer := await self._texts.aanswer(asked, request.runtime)) is not None:
                return answer
        return await handler(self._steered(request))

    def _planned(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """What needs no model: a tool's answer, a call whose arguments are at hand, a file left unread."""
        return self._spoken(request) or self._unread(request) or self._call(request)

    def _spoken(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The turn's answer where a tool has already given it, or was not allowed to."""
        results = tool_results(request.messages)
        answering = _answering(request)
        last = results[-1:]  # what came before it in the turn was its material
        if not last or any(r.status == "success" and r.name not in answering for r in last):
            return None
        text = "\n".join(_said(result) for result in last)
        request.runtime.stream_writer({"type": "delta", "text": text})
        return AIMessage(content=text)

    def _route(self, request: ModelRequest[RunContext]) -> dict[str, Any]:
        context = request.runtime.context or RunContext()
        route = cast("dict[str, Any] | None", request.state.get("route"))
        return {} if context.tools == "off" else route or {}

    def _routed(self, request: ModelRequest[RunContext]) -> BaseTool | None:
        """The tool of this turn's route, where it is still to be called."""
        name = self._route(request).get("tool")
        if name is None or tool_results(request.messages):
            return None
        return _offered(request, name)

    def _unread(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """How a file that the message names, and that may not be read, can be asked about."""
        route = self._route(request)
        if not route.get("file") or route.get("tool"):
            return None
        name = route["file"]
        text = (
            f"{name} was not read: files are read only below folders that you allow. "
            f"Start with `--files {PurePath(name).parent!s}`, or ask about this one: `agent ask -f {name} …`"
        )
        request.runtime.stream_writer({"type": "delta", "text": text})
        return AIMessage(content=text)

    def _call(self, request: ModelRequest[RunContext]) -> AIMessage | None:
        """The call that needs no model: its arguments stand in the message, or in a text that is at hand."""
        tool, text = self._routed(request), text_at_hand(request.messages)
        question = own_words(request.messages)
        if tool is not None and question is not None:
            named = self._route(request).get("file")
            attached = text.text if text is not None and text.fresh else ""
            args = plain_arguments(tool.name, question, attached=attached, file=named)
            return _calling(tool.name, args) if args is not None else None
        if question is None or text is None or not text.fresh:
            return None
        if text.read and shows(question) and len(text.text) <= _SHOWN_CHARS:
            request.runtime.stream_writer({"type": "delta", "text": text.text})
            return AIMessage(content=text.text)
        summed_up = any(r.name == "summarize" for r in tool_results(request.messages))
        if summed_up or not wants_summary(question) or _offered(request, "summarize") is None:
            return None
        return _calling("summarize", {"text": text.text})

    def _about_a_text(self, request: ModelRequest[RunContext]) -> TextQuestion | None:
        """The question that a text at hand may answer: no request to write, and no other tool's."""
        question, text = own_words(request.messages), text_at_hand(request.messages)
        if question is None or text is None or self._routed(request) is not None or wants_writing(question):
            return None
        return TextQuestion(question=question, text=text, history=spoken(request.messages))

    def _steered(self, request: ModelRequest[RunContext]) -> ModelRequest[RunContext]:
        tool = self._routed(request)
        messages = _as_it_was_said(request.messages, _answering(request))
        if tool is None:
            return request.override(messages=messages, tools=[], tool_choice=None)
        return request.override(messages=messages, tools=[tool], tool_choice=tool.name)


def _offered(request: ModelRequest[RunContext], name: str) -> BaseTool | None:
    tools = (tool for tool in request.tools if isinstance(tool, BaseTool))
    return next((tool for tool in tools if tool.name == name), None)


def _answering(request: ModelRequest[RunContext]) -> frozenset[str]:
    """The tools whose result is the answer."""
    tools = [tool for tool in request.tools if isinstance(tool, BaseTool)]
    return ANSWERS_BY_ITSELF | {tool.name for tool in tools if (tool.metadata or {}).get("answers")}


def _as_it_was_said(messages: list[AnyMessage], answering: frozenset[str]) -> list[AnyMessage]:
    """The conversation without the calls whose result stands in the answer that follows them.

    A small model that has seen a call writes calls itself: asked for a capital after a sum, it called the
    calculator.
    """
    begun = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=0)
    return [
        message
        for place, message in enumerate(messages)
        if place >= begun or not _is_step(message, answering)
    ]


def _is_step(message: AnyMessage, answering: frozenset[str]) -> bool:
    if isinstance(message, ToolMessage):
        return message.name in answering
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return bool(calls) and all(call["name"] in answering for call in calls)


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
