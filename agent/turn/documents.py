"""Middleware that asks the documents before the model; where they answer, the turn ends with their answer.

Knows the stream of `chains.rag.rag_chain` (deltas, then one whole answer) and how it becomes a message and
custom stream events. Refuses to know how documents are searched, and how an answer is printed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NotRequired, cast

from langchain.agents.middleware import AgentState
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable

from agent.planner.arguments import is_talk
from agent.turn.context import RunContext
from agent.turn.opening import Opener
from agent.turn.text_at_hand import own_words, spoken

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from chains.rag import Answer

OWN_ANSWER = "Not from your documents; the model's own answer:"
NOT_FOUND = "Not in your documents."
"""What `rag_chain` streams where the documents do not answer; a grounded answer never reads so."""


class DocumentsState(AgentState[Any]):
    """Adds what the documents said to this turn's question."""

    documents: NotRequired[dict[str, Any] | None]


def question_of(state: AgentState[Any]) -> str | None:
    """The user's own words of this turn, without piped or attached text; None where nobody asks."""
    message = state["messages"][-1] if state["messages"] else None
    if not isinstance(message, HumanMessage):
        return None
    return own_words([message])


def describe_answer(answer: Answer) -> dict[str, Any]:
    """The answer's facts as plain values, for a message's `additional_kwargs` and for JSON."""
    return {
        "grounded": answer.grounded,
        "citations": [asdict(citation) for citation in answer.citations],
        "nearest": [asdict(citation) for citation in answer.nearest],
    }


class DocumentsFirst(Opener[DocumentsState]):
    """Answers from the documents where they can; else ends (`docs="only"`) or leaves it to the model."""

    state_schema = DocumentsState

    def __init__(self, answerer: Runnable[Any, Any]) -> None:
        super().__init__()
        self._answerer = answerer

    def open_turn(self, state: DocumentsState, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """Stream the answer of the documents; ends the turn where it is grounded."""
        request = self._request(state, runtime)
        if request is None:
            return {"documents": None}
        from chains.rag import Answer

        answer = Answer(NOT_FOUND)
        stream: Iterator[Any] = self._answerer.stream(request)
        for item in stream:
            if isinstance(item, Answer):
                answer = item
            elif item.text != NOT_FOUND:
                runtime.stream_writer({"type": "delta", "text": item.text})
        return _outcome(answer, runtime, unread=_unread(state))

    async def aopen_turn(self, state: DocumentsState, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """As `open_turn`, for asynchronous runs."""
        request = self._request(state, runtime)
        if request is None:
            return {"documents": None}
        from chains.rag import Answer

        answer = Answer(NOT_FOUND)
        stream: AsyncIterator[Any] = self._answerer.astream(request)
        async for item in stream:
            if isinstance(item, Answer):
                answer = item
            elif item.text != NOT_FOUND:
                runtime.stream_writer({"type": "delta", "text": item.text})
        return _outcome(answer, runtime, unread=_unread(state))

    def _request(self, state: DocumentsState, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        context = runtime.context or RunContext()
        question = question_of(state)
        if question is None or context.docs == "off":
            return None
        # What a message asks of a tool, or only says to be polite, is written nowhere.
        route = cast("dict[str, Any]", state).get("route") or {}
        if context.docs == "auto" and (route.get("tool") or is_talk(question)):
            return None
        return {"question": question, "history": spoken(state["messages"])}


def _unread(state: DocumentsState) -> bool:
    """Whether the turn ends with the word that a file was not read, which is no answer of the model's."""
    route = cast("dict[str, Any]", state).get("route") or {}
    return bool(route.get("file")) and not route.get("tool")


def _outcome(answer: Answer, runtime: Runtime[RunContext], *, unread: bool) -> dict[str, Any]:
    facts = describe_answer(answer)
    if answer.grounded:
        message = AIMessage(content=answer.text, additional_kwargs={"answer": facts})
        return {"messages": [message], "documents": facts, "jump_to": "end"}
    if (runtime.context or RunContext()).docs == "only":
        text = answer.text or NOT_FOUND
        runtime.stream_writer({"type": "delta", "text": text})
        message = AIMessage(content=text, additional_kwargs={"answer": facts})
        return {"messages": [message], "documents": facts, "jump_to": "end"}
    if not unread:
        runtime.stream_writer({"type": "label", "text": OWN_ANSWER, "nearest": facts["nearest"]})
    return {"documents": facts}
