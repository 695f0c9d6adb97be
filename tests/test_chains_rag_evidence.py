"""The order of candidate sentences, and the ones that are left out."""

from __future__ import annotations

from langchain_core.documents import Document

from chains.rag.evidence import Ranker, candidate_sentences, to_passages
from chains.text.vectors import WordVectors


def ranked(question: str, *documents: Document, ranker: Ranker) -> list[str]:
    return [one.sentence.flat for one in ranker.rank(question, candidate_sentences(to_passages(documents)))]


def under(heading: str, text: str) -> Document:
    return Document(
        page_content=text, metadata={"title": "Guide", "heading": heading, "source": f"{heading}.md"}
    )


def test_of_equal_sentences_the_one_under_the_heading_that_is_asked_for_comes_first() -> None:
    found = ranked(
        "What is the default port of the mail server?",
        under("Web server", "The default port is 8080 unless it is changed."),
        under("Mail server", "The default port is 2525 unless it is changed."),
        ranker=Ranker(),
    )
    assert "2525" in found[0]


def test_sentences_about_something_else_are_left_out_behind_the_first() -> None:
    documents = (
        under("Roses", "Roses like clay soil. Roses like soil that drains."),
        under("Herons", "Herons stand in the river."),
    )
    question = "What soil do roses like?"
    assert len(ranked(question, *documents, ranker=Ranker())) == 3  # without embeddings nothing is left out
    found = ranked(question, *documents, ranker=Ranker(embeddings=WordVectors()))
    assert len(found) == 2 and all("Roses" in sentence for sentence in found)


def test_one_sentence_is_always_left() -> None:
    documents = (under("Herons", "Herons stand. Rivers flow."),)
    assert ranked("Roses?", *documents, ranker=Ranker(embeddings=WordVectors()))
