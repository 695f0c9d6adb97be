"""Short sections, nested items and quoted mails: what is answered keeps the words that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from retrieval_fakes import WordEmbeddings

from chains.rag.evidence import Ranker, candidate_sentences, to_passages
from chains.retrieval import DocumentStore
from chains.retrieval.errors import QueryError
from chains.text.sentences import split_sentences
from llms.errors import BadRequest
from llms.prompts import message_text

FAQ = """# Shop

## Can I return worn shoes?

No.

## How long can I return items?

For 35 days.

## Terms

### Fee

None.
"""
HOURS = """- Deliveries
  - Monday: 8 to 12
    - by the gate
- Pickup
  - Monday: 13 to 17

Write to us.
"""
MAIL = """From: Nora <n@x.example>
Subject: Re: Delivery
Date: Tue, 02 Mar 2027 09:15:00 +0100

The delivery moves to 21 May.

On 1 Mar 2027 Sam wrote:
> The delivery is planned for 7 May. The name of the driver is Tom.
"""


@pytest.fixture
def store(tmp_path: Path) -> DocumentStore:
    return DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact")


def answers(store: DocumentStore, path: Path, text: str, question: str) -> list[str]:
    path.write_text(text)
    store.ingest(path)
    found = candidate_sentences(to_passages(store.retriever(k=9).invoke(question)))
    return [one.sentence.flat for one in Ranker(embeddings=WordEmbeddings()).rank(question, found)]


def test_each_section_keeps_its_heading(store: DocumentStore, tmp_path: Path) -> None:
    (tmp_path / "faq.md").write_text(FAQ)
    store.ingest(tmp_path / "faq.md")
    found = store.retriever(k=9).invoke("return")
    assert {(one.metadata["heading"], one.page_content.split("\n")[-1]) for one in found} == {
        ("Can I return worn shoes?", "No."),
        ("How long can I return items?", "For 35 days."),
        ("Terms > Fee", "None."),
    }


def test_a_word_is_an_answer_under_its_question(store: DocumentStore, tmp_path: Path) -> None:
    assert answers(store, tmp_path / "faq.md", FAQ, "Can I return worn shoes?")[0] == "No."
    assert answers(store, tmp_path / "faq.md", FAQ, "What is the fee?")[0] == "None."


def test_a_heading_is_no_answer() -> None:
    plain = Document(
        "4 Deposit\n\nIt is 900 euros.", metadata={"heading": "Lease > Deposit", "title": "Flat"}
    )
    assert [one.sentence.flat for one in candidate_sentences(to_passages([plain]))] == ["It is 900 euros."]
    assert candidate_sentences(to_passages([Document("No.")])) == []


def test_nested_items_have_parents(store: DocumentStore, tmp_path: Path) -> None:
    assert [(one.text, one.parent) for one in split_sentences(HOURS)] == [
        ("Deliveries", ""),
        ("Monday: 8 to 12", "Deliveries"),
        ("by the gate", "Deliveries, Monday: 8 to 12"),
        ("Pickup", ""),
        ("Monday: 13 to 17", "Pickup"),
        ("Write to us.", ""),
    ]
    assert answers(store, tmp_path / "hours.md", HOURS, "When is pickup on Monday?")[0] == "Monday: 13 to 17"


def test_the_newest_words_of_a_mail_answer(store: DocumentStore, tmp_path: Path) -> None:
    said = answers(store, tmp_path / "a.eml", MAIL, "When is the delivery?")
    assert said[0] == "The delivery moves to 21 May." and not any("7 May" in one for one in said)
    said = answers(store, tmp_path / "a.eml", MAIL, "What is the name of the driver?")
    assert said[0] == "The name of the driver is Tom."


def test_half_a_character_is_refused_by_name(store: DocumentStore) -> None:
    half = "half \ud83d"
    with pytest.raises(BadRequest, match=r"HumanMessage.*surrogate"):
        message_text(HumanMessage(half))
    with pytest.raises(ValueError, match="ferry"):
        store.add_texts({"ferry": (half, {})})
    with pytest.raises(QueryError, match="surrogate"):
        store.retriever(k=1).invoke(half)
    assert store.sources() == []
