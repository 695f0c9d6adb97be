"""search_docs: the text for the model and the artifact for the application."""

from __future__ import annotations

from fakes import ScoringChat, StaticRetriever
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage

from chains.rag import Answer, rag_chain
from tools import search_docs_tool
from tools.chain_tools import answer_text

TEXT = "The reading room opens at nine. It closes at six."


def _tool(score: float) -> object:
    meta = {
        "source": "hours.md",
        "heading": "Opening",
        "page": 3,
        "start": 0,
        "chunk_id": "h",
        "cosine": score,
    }
    return search_docs_tool(
        rag_chain(ScoringChat(), StaticRetriever(documents=[Document(TEXT, metadata=meta)]))
    )


def test_a_call_gives_cited_text_and_the_answer_as_artifact() -> None:
    call = {
        "name": "search_docs",
        "args": {"question": "When does the reading room open?"},
        "id": "1",
        "type": "tool_call",
    }
    message = _tool(0.9).invoke(call)  # type: ignore[attr-defined]
    assert isinstance(message, ToolMessage) and isinstance(message.artifact, Answer)
    assert "The reading room opens at nine. [1]" in message.content
    assert "[1] hours.md, Opening, page 3" in message.content


async def test_an_unanswered_question_names_the_nearest_passages() -> None:
    text = await _tool(0.05).ainvoke({"question": "Who won the regatta?"})  # type: ignore[attr-defined]
    assert text == "Not in your documents. Nearest passages: hours.md, Opening, page 3"
    assert answer_text(Answer("Not in your documents.")) == "Not in your documents."


async def test_a_question_that_is_none_is_told_to_the_model() -> None:
    tool = _tool(0.9)
    assert "expected a question" in await tool.ainvoke({"question": " "})  # type: ignore[attr-defined]
    call = {"name": "search_docs", "args": {"question": ""}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)  # type: ignore[attr-defined]
    assert message.status == "error" and message.artifact is None
