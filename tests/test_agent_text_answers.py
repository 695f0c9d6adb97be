"""Questions about a file or an attached text are answered by its own sentences, with citations."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import CONFIG, last, scripted
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agent.guard.labels import labels_of
from agent.planner.planner import Planner
from agent.planner.router import RouteDecision
from agent.planner.text_answers import TextAnswers, store_of
from agent.turn.events import AnswerLabel, Final, ToolCall, astream_events, stream_events
from agent.turn.graph import build_graph
from agent.turn.messages import TextAtHand, user_message
from tools import read_file_tool

TEXT = "# Widget\n\nIt counts boxes. It needs Python 3.11.\n\n## Rights\n\nThe licence is MIT.\n"


class ByWords(Embeddings):
    """An embedder for which texts that share words are similar."""

    WORDS = ("licence", "python", "boxes", "capital")

    def embed_query(self, text: str) -> list[float]:
        return [float(word in text.casefold()) for word in self.WORDS] + [0.1]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class Sends:
    """A router that always returns the same route."""

    def __init__(self, route: str = "direct", missing: str | None = None) -> None:
        self.decision = RouteDecision(route=route, probability=1.0, reason="fixed", missing=missing)

    def route(self, message: str, *, available: Any) -> RouteDecision:
        return self.decision


@tool
def summarize(text: str) -> str:
    """Summarizes."""
    return f"in short: {' '.join(text.split())[:20]}"


summarize.metadata = {"kind": "read", "reaches": "nothing"}


def agent_for(
    folder: Path | None, *answers: Any, route: str = "direct", missing: str | None = None, **more: Any
) -> tuple[Any, Any]:
    model = scripted(*(answers or ("the model's words",)), writes_well=False)
    found: list[Any] = [summarize] if folder is None else [summarize, read_file_tool([folder])]
    agent = build_graph(
        model,
        tools=found,
        planner=Planner(
            Sends(route, missing), texts=TextAnswers(model, ByWords), folders=[folder] if folder else []
        ),
        **more,
    )
    return agent, model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "README.md").write_text(TEXT)
    (tmp_path / "long.md").write_text("Boxes are counted here.\n\n" * 200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attached(question: str, text: str = TEXT) -> Any:
    return {"messages": [user_message(question, attached=text, origin="README.md")]}


def test_a_question_about_a_named_file_is_answered_out_of_it(folder: Path) -> None:
    agent, model = agent_for(folder)
    final = last(list(stream_events(agent, "what does README.md say about the licence?")))
    assert final.text == "The licence is MIT. [1]" and final.grounded and model.seen == []
    cited = final.citations[0]
    assert (cited["source"], cited["line"], cited["heading"]) == ("README.md", 7, "Rights")
    assert TEXT[cited["start"] : cited["end"]] == "The licence is MIT."


def test_the_same_asynchronously_and_for_an_attached_text() -> None:
    agent, model = agent_for(None)

    async def run() -> list[Any]:
        return [event async for event in astream_events(agent, attached("which python does it need?"))]

    final = asyncio.run(run())[-1]
    assert isinstance(final, Final) and "It needs Python 3.11. [1]" in final.text and model.seen == []
    message = AIMessage("", additional_kwargs={"answer": {"citations": final.citations}})
    assert labels_of([message]).untrusted  # what a text says stays untrusted


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("what is in README.md", TEXT),
        ("show me README.md", TEXT),
        ("what is in long.md", "in short: Boxes are counted he"),
        ("summarize README.md", "in short: # Widget It counts b"),
        ("what is README.md about?", "in short: # Widget It counts b"),
    ],
)
def test_a_short_file_is_shown_and_a_long_one_summed_up(folder: Path, question: str, said: str) -> None:
    agent, model = agent_for(folder)
    final = last(list(stream_events(agent, question)))
    assert final.text.strip() == said.strip() and model.seen == []


@pytest.mark.parametrize("question", ["summarize this", "tl;dr", "what is it about?"])
def test_an_attached_text_is_what_is_summed_up(question: str) -> None:
    agent, model = agent_for(None)
    assert last(list(stream_events(agent, attached(question)))).text.startswith("in short: # Widget")
    assert model.seen == []


def test_what_the_text_does_not_say_is_the_models_own_under_a_label() -> None:
    agent, model = agent_for(None)
    events = list(stream_events(agent, attached("who painted the ceiling?")))
    assert last(events).text == "the model's words" and not last(events).grounded
    labels = [event.text for event in events if isinstance(event, AnswerLabel)]
    assert labels == ["Not found in README.md; the model's own answer:"]
    assert model.seen[0][-1].text.startswith("# Widget")  # the model saw the text, too


def test_a_request_to_rewrite_goes_to_the_model() -> None:
    agent, _ = agent_for(None)
    events = list(stream_events(agent, attached("translate the licence to German")))
    assert last(events).text == "the model's words" and not any(isinstance(e, AnswerLabel) for e in events)


def test_a_follow_up_is_answered_out_of_the_same_text_and_other_matters_are_not(folder: Path) -> None:
    agent, model = agent_for(folder, checkpointer=InMemorySaver())
    list(stream_events(agent, "what is in README.md", config=CONFIG))
    follow = last(list(stream_events(agent, "and the licence?", config=CONFIG)))
    assert follow.text == "The licence is MIT. [1]" and model.seen == []
    other = last(list(stream_events(agent, "what is the capital of France?", config=CONFIG)))
    assert other.text == "the model's words" and other.label is None


@pytest.mark.parametrize("route", ["direct", "docs", "summarize"])
def test_a_file_that_may_not_be_read_is_named_with_the_way_and_nothing_is_made_up(
    folder: Path, route: str
) -> None:
    agent, model = agent_for(None, route=route)
    final = last(list(stream_events(agent, "what is in README.md")))
    assert final.text.startswith("README.md was not read") and "agent ask -f README.md" in final.text
    assert model.seen == []


def test_a_name_of_no_file_changes_nothing(folder: Path) -> None:
    agent, _ = agent_for(folder)
    events = list(stream_events(agent, "what is a CHANGELOG.md for?"))
    assert last(events).text == "the model's words" and not any(isinstance(e, ToolCall) for e in events)


def test_the_model_is_not_shown_calls_whose_result_was_the_answer() -> None:
    @tool
    def calculator(expression: str) -> str:
        """Calculates."""
        return "4"

    calculator.metadata = {"kind": "read", "reaches": "nothing"}

    router = Sends("calculator")
    model = scripted("Paris", writes_well=False)
    agent = build_graph(
        model,
        tools=[calculator],
        planner=Planner(router),
        checkpointer=InMemorySaver(),
    )
    assert last(list(stream_events(agent, "2+2", config=CONFIG))).text == "4"
    router.decision = RouteDecision(route="direct", probability=1.0, reason="fixed")
    assert last(list(stream_events(agent, "what is the capital of France?", config=CONFIG))).text == "Paris"
    assert [m.text for m in model.seen[0]] == ["2+2", "4", "what is the capital of France?"]
    kept = agent.get_state(CONFIG).values["messages"]
    assert any(isinstance(m, ToolMessage) for m in kept)  # the thread keeps it


def chunks(text: str, source: str) -> list[Any]:
    with store_of(
        TextAtHand(text=text, source=source, read=True, fresh=True), "a question", ByWords()
    ) as store:
        return store._manifest.chunks_of(source)


def test_passages_cover_a_text_and_know_where_they_stand() -> None:
    text = "Intro.\n\n# One\n\n" + "A sentence here. " * 100 + "\n\nTwo\n===\n\nEnd.\n"
    found = chunks(text, "a.md")
    assert all(text[c.start : c.end] == c.text for c in found)
    assert {c.heading for c in found} == {"", "One", "Two"} and found[-1].heading == "Two"
    assert "".join("".join(c.text.split()) for c in found) == "".join(text.split())
    assert len(chunks("Short paragraph.\n\n" * 600, "b")) > 3
    assert chunks(" \n\n ", "c") == []


@pytest.mark.parametrize(
    "text",
    ["".join(f"{n}: a line of a log\n" for n in range(2000)), "word " * 5000, "x" * 20_000, "a\n" * 3000],
)
def test_a_text_without_paragraphs_is_cut(text: str) -> None:
    found = chunks(text, "a.log")
    assert len(found) > 5 and all(text[c.start : c.end] == c.text for c in found)
    assert "".join("".join(c.text.split()) for c in found) == "".join(text.split())


def test_sections_of_several_files_are_cited_in_their_own() -> None:
    text = "The gate closes at ten.\n\nThe lamp is lit at dusk."
    at = text.index("The lamp")
    sections = [(0, at, "a.pdf", "Gate", "Hours", 3, None), (at, len(text), "b.txt", "", "", None, 7)]
    given = TextAtHand(text=text, source="both", read=True, fresh=True, sections=sections)
    with store_of(given, "when is the lamp lit", ByWords()) as store:
        [gate] = store._manifest.chunks_of("a.pdf")
        [lamp] = store._manifest.chunks_of("b.txt")
        assert (gate.heading, gate.page, gate.text) == ("Hours", 3, "The gate closes at ten.")
        assert text[lamp.start : lamp.end] == lamp.text and lamp.place == {"line": 7}
