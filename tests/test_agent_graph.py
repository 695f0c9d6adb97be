"""The graph asks the documents first and the model after them, and yields the events of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agent_fakes import scripted
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable

from agent.guard.labels import OWN_INPUT
from agent.turn.context import RunContext
from agent.turn.documents import NOT_FOUND, OWN_ANSWER
from agent.turn.events import AnswerLabel, Delta, Event, Final, astream_events, stream_events
from agent.turn.graph import build_graph
from chains.rag import Answer, AnswerDelta, Citation
from chains.runnable import generator_chain

CITATION = Citation(1, "a.md", "Sky", None, 0, 12, "Sky is blue.", "c1")


class Answerer:
    """Stands in for `rag_chain`: grounded if the question names the sky."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def chain(self) -> Runnable[Any, Any]:
        def run(request: Any, config: Any) -> Iterator[Any]:
            self.asked.append(request)
            if "sky" in request["question"]:
                yield AnswerDelta("Sky is ")
                yield AnswerDelta("blue. [1]")
                yield Answer("Sky is blue. [1]", (CITATION,), grounded=True)
            else:
                yield AnswerDelta(NOT_FOUND)
                yield Answer(NOT_FOUND, nearest=(CITATION,))

        return generator_chain(run, name="answerer", result=Answer)


def test_not_found_reads_as_the_chain_says_it() -> None:
    from chains.rag.chain import NOT_FOUND as SAID

    assert NOT_FOUND == SAID


def turn(question: str, **context: Any) -> tuple[list[Event], Any, Answerer]:
    model, answerer = scripted("Paris it is."), Answerer()
    graph = build_graph(model, answerer=answerer.chain())
    return list(stream_events(graph, question, context=RunContext(**context))), model, answerer


def test_grounded_answer_comes_from_the_documents_alone() -> None:
    events, model, _ = turn("what colour is the sky?")
    assert [event.text for event in events if isinstance(event, Delta)] == ["Sky is ", "blue. [1]"]
    final = events[-1]
    assert isinstance(final, Final) and final.grounded and final.label is None
    assert final.citations[0]["quote"] == "Sky is blue." and final.text == "Sky is blue. [1]"
    assert model.seen == []


def test_ungrounded_goes_to_the_model_under_a_label() -> None:
    events, model, _ = turn("capital of France?")
    assert isinstance(events[0], AnswerLabel) and events[0].text == OWN_ANSWER
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Paris it is."
    final = events[-1]
    assert isinstance(final, Final) and not final.grounded and final.label == OWN_ANSWER
    assert final.nearest[0]["source"] == "a.md" and len(model.seen) == 1


def test_docs_only_stops_at_not_in_your_documents() -> None:
    events, model, _ = turn("capital of France?", docs="only")
    assert [event.text for event in events if isinstance(event, Delta)] == [NOT_FOUND]
    assert isinstance(events[-1], Final) and events[-1].text == NOT_FOUND and events[-1].nearest
    assert model.seen == []


def test_docs_off_asks_the_model_without_a_label() -> None:
    events, _, answerer = turn("what colour is the sky?", docs="off")
    assert answerer.asked == [] and not any(isinstance(event, AnswerLabel) for event in events)
    assert isinstance(events[-1], Final) and events[-1].text == "Paris it is."


def test_only_the_users_own_words_are_looked_up() -> None:
    answerer = Answerer()
    message = HumanMessage(
        "a log of the sky\n\nwhat went wrong?", additional_kwargs={OWN_INPUT: "what went wrong?"}
    )
    list(stream_events(build_graph(scripted("x"), answerer=answerer.chain()), {"messages": [message]}))
    assert answerer.asked[0]["question"] == "what went wrong?"


def test_history_goes_with_a_follow_up() -> None:
    answerer = Answerer()
    graph = build_graph(scripted("x"), answerer=answerer.chain())
    state = {"messages": [("user", "hello"), ("ai", "hi"), ("user", "and the sky?")]}
    list(stream_events(graph, state))
    assert [message.text for message in answerer.asked[0]["history"]] == ["hello", "hi"]


@pytest.mark.parametrize("question", ["what colour is the sky?", "capital of France?"])
async def test_async_events_equal_those_of_the_plain_stream(question: str) -> None:
    graph = build_graph(scripted(lambda _: "Paris it is."), answerer=Answerer().chain())  # type: ignore[arg-type]
    expected = list(stream_events(graph, question))
    assert [event async for event in astream_events(graph, question)] == expected


def test_an_error_of_the_model_is_raised_as_it_is() -> None:
    def fail(_: Any) -> Any:
        raise ZeroDivisionError("weights")

    with pytest.raises(ZeroDivisionError, match="weights"):
        list(stream_events(build_graph(scripted(fail)), "hello"))


@pytest.mark.parametrize(("question", "asked"), [("thanks!", 0), ("who are you?", 0), ("what is NF4?", 1)])
def test_mere_talk_is_not_looked_up_and_has_no_label(question: str, asked: int) -> None:
    events, _, answerer = turn(question)
    assert len(answerer.asked) == asked == sum(isinstance(event, AnswerLabel) for event in events)
    assert len(turn(question, docs="only")[2].asked) == 1  # unless nothing else is wanted
