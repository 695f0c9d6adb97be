"""default_tools: the tools that the given parts make, and a call of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import ScoringChat, StaticRetriever, WordEmbeddings
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from chains import Answer, Classification, Summary
from sandbox import Sandbox, Tier
from tools import default_tools


def test_every_tool_is_there_when_everything_is_given(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Remember the milk.")
    retriever = StaticRetriever(documents=[Document("The gate closes at ten.", metadata={"cosine": 0.9})])
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


def test_chains_that_exist_already_are_used() -> None:
    made = default_tools(
        ScoringChat(),
        retriever=StaticRetriever(documents=[]),
        answerer=RunnableLambda(lambda question: Answer(f"about {question}")),
        summarizer=RunnableLambda(lambda text: Summary(text=f"short {text}", parts=(), sources=())),
        classifier=lambda labels: RunnableLambda(lambda text: Classification(label=labels[-1])),
    )
    tools = {tool.name: tool for tool in made}
    assert tools["search_docs"].invoke({"question": "gates"}) == "about gates"
    assert tools["summarize"].invoke({"text": "story"}) == "short story"
    assert tools["classify"].invoke({"text": "it purrs", "labels": ["dogs", "cats"]}) == "cats ()"


def test_tools_that_run_code_are_left_out_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "tier", lambda: Tier(number=0, name="none", gaps=()))
    assert [tool.name for tool in default_tools(ScoringChat())] == ["calculator", "classify", "summarize"]
