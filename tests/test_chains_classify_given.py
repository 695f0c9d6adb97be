"""The arguments of classify_chain: good and bad labels, examples, texts and options."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

import pytest
from fakes import ScoringChat, ScriptedChat, WordEmbeddings
from langchain_core.documents import Document

from chains.classify import classify_chain
from chains.errors import EmptyInputError, ExamplesError, LabelsError, NotTextError, OptionError

LABELS = ["sports", "cooking"]
MATCH = "The sports team won every sports match this season."


class Mood(Enum):
    GLAD = "glad"
    SAD = "sad"


class Size(IntEnum):
    LARGE = 2
    SMALL = 1


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (Mood, ["glad", "sad"]),
        (Size, ["LARGE", "SMALL"]),
        (list(Mood), ["glad", "sad"]),
        ({Mood.GLAD: "joy", Mood.SAD: "grief"}, ["glad", "sad"]),
        ({"person": [Mood.GLAD, Mood.SAD]}, ["person > glad", "person > sad"]),
    ],
)
def test_members_of_an_enum_are_labels_by_their_text_or_name(labels: Any, names: list[str]) -> None:
    assert list(classify_chain(ScoringChat(), labels).invoke("a glad day").scores) == names


def test_a_chain_tells_what_it_chooses_among() -> None:
    chain = classify_chain(None, [f"l{n}" for n in range(9)], embeddings=WordEmbeddings())
    assert repr(chain) == "classify_chain('l0', 'l1', 'l2', 'l3', 'l4', and 4 more; method='embedder')"


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["one"],
        ["a", "A "],
        ["a", ""],
        ["a", "  "],
        "a,b",
        b"ab",
        7,
        None,
        {"a": 1, "b": 2},
        [1, 2],
        [f"label {n}" for n in range(10_000)],
    ],
)
def test_bad_labels_are_refused(labels: Any) -> None:
    with pytest.raises(LabelsError, match="expected"):
        classify_chain(ScoringChat(), labels)


def test_a_thousand_labels_are_taken() -> None:
    labels = [f"matter{n}" for n in range(1000)]
    chain = classify_chain(None, labels, embeddings=WordEmbeddings())
    assert chain.invoke("This text is about matter777.").label == "matter777"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", EmptyInputError),
        (" \n\t", EmptyInputError),
        (b"PK\x03\x04", NotTextError),
        ("a\x00b", NotTextError),
        ("half \ud83d", NotTextError),
        (Document("\udcff"), NotTextError),
        (3, NotTextError),
    ],
)
def test_bad_texts_are_refused_and_the_others_of_a_batch_kept(text: Any, error: type[Exception]) -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    with pytest.raises(error, match="found"):
        chain.invoke(text)
    good, bad = chain.batch([MATCH, text], return_exceptions=True)
    assert good.label == "sports" and isinstance(bad, error)


@pytest.mark.parametrize(
    "text", ["今日は試合がありました。", "Сегодня был матч", "كانت هناك مباراة اليوم", "🏐🏐🏐"]
)
def test_text_in_other_scripts_gets_a_label(text: str) -> None:
    assert classify_chain(ScoringChat(), LABELS).invoke(text).label in LABELS


@pytest.mark.parametrize(
    "options",
    [
        {"abstain_below": 2},
        {"abstain_below": -1},
        {"abstain_below": "0.5"},
        {"abstain_below": None},
        {"abstain_below": float("nan")},
        {"embeddings": "all-MiniLM-L6-v2"},
        {"method": "magic"},
        {"method": "embedder"},
        {"method": "examples"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        classify_chain(ScoringChat(), LABELS, **options)
    with pytest.raises(OptionError, match="embeddings"):
        classify_chain(None, LABELS)
    with pytest.raises(OptionError, match="expected llm to be a LangChain model, found 'mistral-7b'"):
        classify_chain("mistral-7b", LABELS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "examples",
    [
        [("text", "unknown")],
        [("", "sports")],
        {"sports": [3]},
        [("text", "sports", 1)],
        [("text", ["sports"])],
        ["text", "ab"],
        "text",
        5,
        [(Document("text"), "sports")],
    ],
)
def test_bad_examples_are_refused(examples: Any) -> None:
    with pytest.raises(ExamplesError, match="found"):
        classify_chain(None, LABELS, embeddings=WordEmbeddings(), examples=examples)


def test_examples_name_their_labels_as_people_write_them() -> None:
    for examples in ({"Sports": "one text by itself"}, [("a text", " SPORTS ")], {"sports": ("a", "b")}):
        chain = classify_chain(None, LABELS, embeddings=WordEmbeddings(), examples=examples)
        assert chain.invoke(MATCH).method == "examples"
    moody = classify_chain(None, Mood, embeddings=WordEmbeddings(), examples={Mood.SAD: ["rain"]})
    assert moody.invoke("rain").label == "sad"


def test_an_example_under_a_name_that_two_labels_share_is_refused() -> None:
    labels = {"sport": ["other", "tennis"], "food": ["other", "soup"]}
    with pytest.raises(ExamplesError, match="found 'other'"):
        classify_chain(None, labels, embeddings=WordEmbeddings(), examples=[("ladle", "other")])
    chain = classify_chain(None, labels, embeddings=WordEmbeddings(), examples=[("ladle", "food > other")])
    assert chain.invoke("ladle").label == "food > other"


def test_what_to_do_next_fits_what_was_found() -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    for given, told in ((None, "NoneType None: pass a str"), (b"PK", "bytes b'PK': decode it")):
        with pytest.raises(NotTextError) as error:
            chain.invoke(given)  # type: ignore[arg-type]
        assert told in str(error.value)


@pytest.mark.parametrize("reply", ["", "sports or cooking", "no idea", "\x00", "x" * 9999])
def test_a_reply_that_names_no_label_or_two_gives_none(reply: str) -> None:
    found = classify_chain(ScriptedChat(replies=[reply]), LABELS).invoke(MATCH)
    assert found.label is None and found.labels == () and found.scores == {"sports": 0.5, "cooking": 0.5}
