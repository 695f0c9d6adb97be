"""The documents' part of a turn: they are asked before the model, and a grounded answer ends the turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import Runnable

from agent.planner.arguments import is_talk
from agent.turn.context import RunContext
from agent.turn.messages import history, question_of
from agent.turn.state import TurnRoute, TurnState

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from chains.rag import Answer

OWN_ANSWER = "Not from your documents; the model's own answer:"
NOT_FOUND = "Not in your documents."
"""What `rag_chain` streams if the documents do not answer; a grounded answer never reads like this."""


class Documents:
    """Asks the documents: `answerer` is a `rag_chain` over them."""

    def __init__(self, answerer: Runnable[Any, Any]) -> None:
        self._answerer = answerer

    def wanted(
        self, messages: Sequence[AnyMessage], route: TurnRoute | None, context: RunContext | None
    ) -> bool:
        """Return False for small talk and for requests that a tool will handle, unless `docs` is "only"."""
        question = question_of(messages[-1:])
        docs = (context or RunContext()).docs
        if question is None or docs == "off":
            return False
        return docs == "only" or not ((route and route["tool"]) or is_talk(question))

    def answer(self, state: TurnState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Stream the documents' answer. The turn gets a message if it is grounded, or if `docs` is "only"."""
        from chains.rag import Answer

        answer = Answer(NOT_FOUND)
        request = {"question": question_of(state["messages"]), "history": history(state["messages"])}
        for item in self._answerer.stream(request):
            if isinstance(item, Answer):
                answer = item
            elif item.text != NOT_FOUND:
                runtime.stream_writer({"type": "delta", "text": item.text})
        facts = describe_answer(answer)
        if not answer.grounded:
            if (runtime.context or RunContext()).docs != "only":
                _label(state, runtime, facts)
                return {"documents": facts}
            runtime.stream_writer({"type": "delta", "text": answer.text or NOT_FOUND})
        message = AIMessage(content=answer.text or NOT_FOUND, additional_kwargs={"answer": facts})
        return {"messages": [message], "documents": facts}


def describe_answer(answer: Answer) -> dict[str, Any]:
    """Return the answer's facts as plain values, for a message's `additional_kwargs` and for JSON."""
    return {
        "grounded": answer.grounded,
        "citations": [asdict(citation) for citation in answer.citations],
        "nearest": [asdict(citation) for citation in answer.nearest],
    }


def _label(state: TurnState, runtime: Runtime[RunContext], facts: dict[str, Any]) -> None:
    """Announce the model's own answer, unless the turn will only say that a file was not read."""
    route = state.get("route")
    if route is None or not route.get("file") or route["tool"]:
        runtime.stream_writer({"type": "label", "text": OWN_ANSWER, "nearest": facts["nearest"]})
