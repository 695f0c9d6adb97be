"""The check of written sentences, and the ranking of chosen ones, with the real embedder and model."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import StaticRetriever
from langchain_core.documents import Document

from chains.rag import rag_chain
from chains.rag.condense import is_follow_up
from chains.rag.evidence import expected_pattern, is_dead_end, to_passages
from chains.rag.generate import negates, supporting_span, supports

QUOTE = "The tower, finished in 1931 by Bruno Hartley, is 88 metres high and was never open to the public."


@pytest.mark.parametrize(
    ("sentence", "good"),
    [
        ("The tower was finished in 1931 and never open to the public.", True),
        ("Bruno Hartley finished the tower in 1931, never open to the public.", True),
        ("The tower was finished in 1932 and never open to the public.", False),
        ("The tower was finished by Karl Hartley, never open to the public.", False),
        ("The tower, 88 metres high, was open to the public.", False),
        ("Pigeons never nest on the cathedral's northern roof.", False),
        ("", False),
    ],
)
def test_support_needs_numbers_names_words_and_negation(sentence: str, good: bool) -> None:
    assert supports(QUOTE, sentence) is good


def test_a_span_may_be_two_neighbouring_sentences() -> None:
    text = "The mill stands in Orby. It was built in 1720. Nobody lives there."
    (passage,) = to_passages([Document(text)])
    span = supporting_span("The mill in Orby was built in 1720.", passage)
    assert span is not None and text[span[0] : span[1]] == "The mill stands in Orby. It was built in 1720."
    assert supporting_span("The mill in Orby was built in 1820.", passage) is None


def test_negations_are_seen() -> None:
    assert negates("It isn't so") and negates("It cannot be") and not negates("It is notable")


@pytest.mark.parametrize(
    ("question", "follows"),
    [
        ("And when?", True),
        ("What about the garden?", True),
        ("How tall is it?", True),
        ("Why?", True),
        ("How tall is the Albert Bridge?", False),
        ("Which clocks does the museum keep?", False),
    ],
)
def test_follow_ups_are_told_from_whole_questions(question: str, follows: bool) -> None:
    assert is_follow_up(question) is follows


def test_signals_read_the_question_and_dead_ends() -> None:
    person, number = expected_pattern("Who built it?"), expected_pattern("How many are there?")
    assert person is not None and person.search("Then Ada Byron came.") and not person.search("Then it came.")
    assert number is not None and number.search("There are 7.")
    assert expected_pattern("What is it for?") is None
    assert (
        is_dead_end("The following are equal::")
        and is_dead_end("Mail a@b.org")
        and not is_dead_end("It is so.")
    )


DOCUMENTS = [
    Document(
        "The observatory opened in 1887. Its great telescope was ground by Alvan Clark. "
        "It weighs fourteen tons. The dome turns on live rings of oak.",
        metadata={"source": "observatory.md", "title": "Observatory"},
    ),
    Document(
        "The tea room serves lunch from noon. It seats forty guests. Dogs may come in on a lead.",
        metadata={"source": "tea.md", "title": "Tea room"},
    ),
]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who ground the telescope's lens?", "Alvan Clark"),
        ("How many people can sit in the tea room?", "forty"),
        ("When did the observatory open?", "1887"),
    ],
)
def test_the_embedded_model_answers_by_quoting(
    chat: Any, embeddings: Any, question: str, answer: str
) -> None:
    chain = rag_chain(chat, StaticRetriever(documents=DOCUMENTS), embeddings=embeddings, sentences=1)
    found = chain.invoke(question)
    assert found.grounded and found.method == "extractive" and answer in found.text
    assert any(found.citations[0].quote in document.page_content for document in DOCUMENTS)


def test_the_embedder_tells_what_the_documents_do_not_hold(chat: Any, embeddings: Any) -> None:
    chain = rag_chain(chat, StaticRetriever(documents=DOCUMENTS), embeddings=embeddings)
    found = chain.invoke("How do I declare a bank transfer that failed?")
    assert not found.grounded and len(found.nearest) == 2
