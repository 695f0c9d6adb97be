"""default_tools: which tools there are for what is given, and that each can be called."""

from __future__ import annotations

from pathlib import Path

from fakes import ScoringChat, StaticRetriever, WordEmbeddings
from langchain_core.documents import Document

from tools import default_tools


def test_every_tool_is_there_when_everything_is_given(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Remember the milk.")
    retriever = StaticRetriever(documents=[Document("The gate closes at ten.", metadata={"score": 0.9})])
    made = default_tools(ScoringChat(), retriever=retriever, embeddings=WordEmbeddings(), folders=[tmp_path])
    tools = {tool.name: tool for tool in made}
    assert list(tools) == [
        "calculator",
        "classify",
        "read_file",
        "run_python",
        "search_docs",
        "summarize",
        "write_code",
    ]
    assert all(tool.description for tool in made)
    assert tools["calculator"].invoke({"expression": "6*7"}) == "42"
    assert "milk" in tools["read_file"].invoke({"path": str(tmp_path / "note.txt")})
    assert "ten" in tools["search_docs"].invoke({"question": "When does the gate close?"})
    assert "gate" in tools["summarize"].invoke({"text": "The gate closes at ten."})
    assert tools["classify"].invoke({"text": "about gates", "labels": ["gates", "cows"]}).startswith("gates")


def test_tools_that_lack_their_parts_are_left_out() -> None:
    names = [tool.name for tool in default_tools(ScoringChat())]
    assert "search_docs" not in names and "read_file" not in names and len(names) == 5
