"""summarize and classify as tools: the text for the model, and bad arguments."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import WordEmbeddings

from chains.classify import Classification, classify_chain
from chains.summarize import Style, Summary, summarize_chain
from sandbox import Limits
from tools import classify_tool, run_python_tool, search_docs_tool, summarize_tool, write_code_tool
from tools.errors import ToolUnavailableError

TEXT = "The ferry leaves at eight. It takes forty minutes. The ferry carries cars, bicycles and dogs."


def _call(tool: Any, **arguments: Any) -> Any:
    return tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})


def test_summarize_gives_text_and_the_whole_summary() -> None:
    tool = summarize_tool(summarize_chain(None, embeddings=WordEmbeddings(), style=Style(sentences=1)))
    message = _call(tool, text=TEXT)
    assert message.content in TEXT and isinstance(message.artifact, Summary)
    assert set(tool.args) == {"text"}


async def test_summarize_tells_why_it_cannot() -> None:
    tool = summarize_tool(summarize_chain(None))
    assert (await tool.ainvoke({"text": " "})).startswith("error: expected a text")
    message = _call(tool, text="")
    assert message.status == "error" and message.artifact is None


def test_classify_takes_its_labels_from_the_call() -> None:
    tool = classify_tool(lambda labels: classify_chain(None, labels, embeddings=WordEmbeddings()))
    message = _call(tool, text="This text is about ferries.", labels=["ferries", "trains"])
    assert message.content.startswith("ferries (ferries ") and isinstance(message.artifact, Classification)
    assert set(tool.args) == {"text", "labels"}


async def test_classify_tells_why_it_cannot() -> None:
    tool = classify_tool(lambda labels: classify_chain(None, labels, embeddings=WordEmbeddings()))
    assert "at least two labels" in await tool.ainvoke({"text": "a text", "labels": ["one"]})
    message = _call(tool, text="", labels=["a", "b"])
    assert message.status == "error" and message.content.startswith("error: expected a text to classify")


def test_tools_made_of_something_else_are_refused() -> None:
    for make in (summarize_tool, search_docs_tool, write_code_tool):
        with pytest.raises(ToolUnavailableError, match=r"expected a chain made by .*, found None; pass that"):
            make(None)  # type: ignore[arg-type]
    with pytest.raises(ToolUnavailableError, match="lambda labels: classify_chain"):
        classify_tool(classify_chain(None, ["a", "b"], embeddings=WordEmbeddings()))  # type: ignore[arg-type]
    with pytest.raises(ToolUnavailableError, match="expected a Sandbox"):
        run_python_tool(Limits())  # type: ignore[arg-type]
