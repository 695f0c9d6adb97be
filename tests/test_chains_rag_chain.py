"""rag_chain with a scripted model and fixed passages: its steps, its stream and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import ScoringChat, ScriptedChat, StaticRetriever, WordEmbeddings
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from chains.errors import EmptyInputError, InputError, NotTextError, OptionError
from chains.rag import Answer, AnswerDelta, rag_chain

BRIDGE = (
    "The Albert Bridge opened in 1873. Rowland Mason Ordish designed it.\n\n"
    "It carries about 19,000 vehicles a day. Troops must break step on it."
)
MUSEUM = "The museum of clocks keeps 4,200 pieces. Its oldest clock does not run any more."


def _documents() -> list[Document]:
    bridge: dict[str, Any] = {
        "source": "bridge.md",
        "title": "Albert Bridge",
        "heading": "History",
        "page": 2,
    }
    bridge |= {"start": 100, "end": 100 + len(BRIDGE), "chunk_id": "b1", "cosine": 0.8}
    museum: dict[str, Any] = {
        "source": "museum.md",
        "title": "Clocks",
        "start": 0,
        "chunk_id": "m1",
        "cosine": 0.2,
    }
    return [Document(BRIDGE, metadata=bridge), Document(MUSEUM, metadata=museum)]


def _retriever() -> StaticRetriever:
    return StaticRetriever(documents=_documents())


def test_extractive_answer_is_verbatim_and_resolves_to_offsets() -> None:
    chain = rag_chain(ScoringChat(), _retriever(), embeddings=WordEmbeddings(), sentences=1)
    answer = chain.invoke("Which Rowland designed it?")
    assert answer.grounded and answer.method == "extractive"
    assert answer.text == "Rowland Mason Ordish designed it. [1]"
    (cited,) = answer.citations
    assert (cited.source, cited.heading, cited.page) == ("bridge.md", "History", 2)
    assert cited.start is not None and cited.end is not None
    assert BRIDGE[cited.start - 100 : cited.end - 100] == cited.quote == "Rowland Mason Ordish designed it."


def test_stream_yields_deltas_that_add_up_to_the_answer() -> None:
    chain = rag_chain(ScoringChat(), _retriever(), embeddings=WordEmbeddings())
    *deltas, last = list(chain.stream("How many vehicles does the bridge carry?"))
    assert isinstance(last, Answer) and len(deltas) == 3
    assert all(isinstance(delta, AnswerDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == last.text
    assert [cited.number for cited in last.citations] == [1, 2, 3]


async def test_async_stream_and_batch_give_the_same_answers() -> None:
    chain = rag_chain(ScoringChat(), _retriever(), embeddings=WordEmbeddings())
    question = "When did the Albert Bridge open?"
    whole = chain.invoke(question)
    assert [item async for item in chain.astream(question)][-1] == whole
    assert await chain.ainvoke(question) == whole
    assert await chain.abatch([question, question]) == [whole, whole]
    assert chain.batch([question]) == [whole]


def test_off_corpus_question_is_refused_before_the_model_is_asked() -> None:
    model = ScoringChat()
    documents = [Document(BRIDGE, metadata={"source": "bridge.md", "cosine": 0.1, "chunk_id": "b"})]
    chain = rag_chain(model, StaticRetriever(documents=documents))
    answer = chain.invoke("What is the capital of France?")
    assert not answer.grounded and answer.citations == () and answer.text == "Not in your documents."
    assert [near.source for near in answer.nearest] == ["bridge.md"]
    assert model.scored == [] and model.seen == []


def test_no_documents_at_all_is_an_honest_refusal() -> None:
    answer = rag_chain(ScoringChat(), StaticRetriever(documents=[])).invoke("Who designed it?")
    assert not answer.grounded and answer.nearest == ()


def test_a_retriever_without_scores_is_judged_by_embeddings_or_by_words() -> None:
    bare = StaticRetriever(documents=[Document(BRIDGE), Document(MUSEUM)])
    for embeddings in (WordEmbeddings(), None):
        chain = rag_chain(ScoringChat(), bare, embeddings=embeddings)
        assert chain.invoke("Who designed the Albert Bridge in 1873?").grounded
        assert not chain.invoke("Best pizza toppings tonight?").grounded


def test_a_score_that_is_no_cosine_is_not_taken_for_one() -> None:
    documents = [Document(BRIDGE, metadata={"source": "bridge.md", "cosine": 17.3})]
    chain = rag_chain(ScoringChat(), StaticRetriever(documents=documents))
    assert not chain.invoke("Best pizza toppings tonight?").grounded


def test_citations_count_lines_where_the_retriever_tells_the_passages() -> None:
    documents = [Document(BRIDGE, metadata={"source": "bridge.md", "cosine": 0.9, "line": 10})]
    chain = rag_chain(ScoringChat(), StaticRetriever(documents=documents), sentences=1)
    (cited,) = chain.invoke("How many vehicles does it carry a day?").citations
    assert cited.line == 12 and "19,000" in cited.quote


def test_written_sentences_are_shown_only_with_a_checked_citation() -> None:
    reply = (
        "The Albert Bridge opened in 1873 [1]. It was designed by Rowland Mason Ordish. [1] "
        "It carries 25,000 vehicles a day [1]. Dragons guard the entrance [2]."
    )
    answer = rag_chain(ScriptedChat(replies=[reply]), _retriever()).invoke("Tell me about the bridge.")
    assert answer.method == "generative"
    assert answer.text == (
        "The Albert Bridge opened in 1873. [1] It was designed by Rowland Mason Ordish. [2] "
        "It carries about 19,000 vehicles a day. [3]"
    )
    assert [cited.quote for cited in answer.citations] == [
        "The Albert Bridge opened in 1873.",
        "Rowland Mason Ordish designed it.",
        "It carries about 19,000 vehicles a day.",
    ]


def test_a_sentence_is_released_before_the_model_has_finished() -> None:
    released: list[str] = []

    class Slow(ScriptedChat):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            for place, chunk in enumerate(super()._stream(*args, **kwargs)):
                if place == 8:
                    released.extend(seen)
                yield chunk

    seen: list[str] = []
    reply = (
        "The Albert Bridge opened in 1873 [1]. Rowland Mason Ordish designed it [1]. Troops break step [1]."
    )
    for item in rag_chain(Slow(replies=[reply]), _retriever()).stream("The bridge?"):
        if isinstance(item, AnswerDelta):
            seen.append(item.text)
    assert released == ["The Albert Bridge opened in 1873. [1]"]


def test_the_models_own_refusal_ends_ungrounded() -> None:
    answer = rag_chain(ScriptedChat(replies=["NOT IN DOCUMENTS."]), _retriever()).invoke(
        "Who painted the bridge?"
    )
    assert not answer.grounded and answer.nearest[0].source == "bridge.md"


def test_nothing_supported_falls_back_to_the_documents_own_sentences() -> None:
    model = ScriptedChat(replies=["Wizards did it with 77 spells."])
    answer = rag_chain(model, _retriever(), sentences=1).invoke("Who designed the Albert Bridge?")
    assert answer.grounded and answer.citations[0].quote in BRIDGE


def test_follow_up_is_condensed_with_its_history() -> None:
    history = [HumanMessage("Who designed the Albert Bridge?"), AIMessage("Ordish.")]
    small = _retriever()
    rag_chain(ScoringChat(), small).invoke({"question": "And when did it open?", "history": history})
    assert small.asked == ["Who designed the Albert Bridge? And when did it open?"]
    capable = _retriever()
    model = ScriptedChat(replies=["When did the Albert Bridge open?", "It opened in 1873 [1]."])
    answer = rag_chain(model, capable).invoke({"question": "And when did it open?", "history": history})
    assert capable.asked == [answer.question] == ["When did the Albert Bridge open?"]


def test_a_rewrite_that_brings_in_new_words_is_not_trusted() -> None:
    history = [("user", "Who designed the Albert Bridge?"), ("assistant", "Ordish.")]
    retriever = _retriever()
    model = ScriptedChat(replies=["Delete every file in Chelsea", "NOT IN DOCUMENTS"])
    rag_chain(model, retriever).invoke({"question": "And when did it open?", "history": history})
    assert retriever.asked == ["Who designed the Albert Bridge? And when did it open?"]


def test_a_question_that_stands_alone_is_left_as_it_is() -> None:
    retriever = _retriever()
    history = [HumanMessage("Who designed the Albert Bridge?"), AIMessage("Ordish.")]
    rag_chain(ScoringChat(), retriever).invoke(
        {"question": "How many clocks has the museum?", "history": history}
    )
    assert retriever.asked == ["How many clocks has the museum?"]


def test_callbacks_and_config_reach_the_retriever_and_the_model() -> None:
    started: list[str] = []

    class Recorder(BaseCallbackHandler):
        def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
            started.append("retriever")

        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            started.append("model")

    chain = rag_chain(ScriptedChat(replies=["The Albert Bridge opened in 1873 [1]."]), _retriever())
    chain.with_config(callbacks=[Recorder()]).invoke("When did it open?")
    assert started == ["retriever", "model"]


def test_scorer_is_found_through_bind_and_with_config() -> None:
    model = ScoringChat()
    wrapped = model.bind(stop=["x"]).with_config(tags=["t"])
    answer = rag_chain(wrapped, _retriever()).invoke("Who designed the Albert Bridge?")
    assert answer.method == "extractive" and model.scored


def test_chain_composes_with_other_runnables() -> None:
    chain = rag_chain(ScoringChat(), _retriever()) | RunnableLambda(lambda answer: answer.grounded)
    assert chain.invoke("Who designed the Albert Bridge?") is True
    assert list(chain.stream("Who designed the Albert Bridge?"))[-1] is True


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", EmptyInputError),
        ("  \n", EmptyInputError),
        (b"x", NotTextError),
        ("a\x00b", NotTextError),
        ({}, InputError),
    ],
)
def test_bad_questions_say_what_was_found(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="found"):
        rag_chain(ScoringChat(), _retriever()).invoke(given)


@pytest.mark.parametrize(
    "history", ["what I said", b"bytes", 3, [3], [{"role": "human"}], [("poet", "text")]]
)
def test_a_history_that_is_no_list_of_messages_is_refused(history: Any) -> None:
    with pytest.raises(InputError, match="expected history to be a list of messages, found"):
        rag_chain(ScoringChat(), _retriever()).invoke({"question": "Who built it?", "history": history})


class _Store:
    def as_retriever(self) -> None: ...


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({"llm": None}, "pass ChatLocal()"),
        ({"llm": "mistral-7b"}, "pass ChatLocal()"),
        ({"retriever": None}, "retriever()"),
        ({"retriever": [Document("text")]}, "retriever()"),
        ({"retriever": _Store()}, "as_retriever()"),
    ],
)
def test_parts_that_are_none_are_refused_with_what_to_pass(given: dict[str, Any], step: str) -> None:
    parts = {"llm": ScoringChat(), "retriever": _retriever()} | given
    with pytest.raises(OptionError, match="found") as caught:
        rag_chain(**parts)
    assert step in str(caught.value)


def test_a_retriever_that_gives_no_documents_is_named() -> None:
    texts = RunnableLambda(lambda _question: ["The bridge is red."])
    with pytest.raises(InputError, match="give Documents"):
        rag_chain(ScoringChat(), texts).invoke("Which colour is the bridge?")


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "magic"},
        {"sentences": 0},
        {"sentences": 11},
        {"sentences": "3"},
        {"threshold": "high"},
        {"embeddings": "all-MiniLM-L6-v2"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="found"):
        rag_chain(ScoringChat(), _retriever(), **options)
