"""Sentences, windows and words: spans are verbatim, and end where a reader would end them."""

# ruff: noqa: RUF001 - the tests need full-width marks and typographic quotes.

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.text.sentences import split_sentences
from chains.text.windows import estimate_tokens, windows
from chains.text.words import content_words, names, numbers, stem


def _texts(text: str) -> list[str]:
    return [sentence.flat for sentence in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Ada Byron met Mr. C. Babbage, e.g. at 9 a.m. in Bath. It rained.", 2),
        ("Version 3.11 is out. See PEP 8. Really? Yes!", 4),
        ("He paid 3.50 dollars vs. 4.00 yesterday.", 1),
        ("“Stop!” she said. He stopped.", 2),
        ("It works with Inc. and Ltd. firms alike.", 1),
        ("一つ目の文。二つ目の文！三つ目？", 3),
        ("كيف حالك؟ أنا بخير.", 2),
        ("Wait... what? Nothing.", 2),
        ("A line\nthat goes on. And another.", 2),
    ],
)
def test_sentence_borders(text: str, sentences: int) -> None:
    assert len(split_sentences(text)) == sentences


def test_blocks_are_never_crossed() -> None:
    text = "Intro without stop\n\n- first item\n- second item. With more.\n\n1. one\n2. two\n\n> quote"
    assert _texts(text) == [
        "Intro without stop",
        "first item",
        "second item.",
        "With more.",
        "one",
        "two",
        "> quote",
    ]


def test_headings_code_tables_and_fields_are_told_apart() -> None:
    text = (
        "# Title\n\nUnder\n=====\n\nText::\n\n    x = 1\n\n    y = 2\n\nMore.\n\n```py\na. B\n\nc\n```\n\n"
        "| a | b |\n|---|---|\n\n>>> 1 + 1\n\n:Author: Someone Else\n"
    )
    kinds = [(sentence.kind, sentence.flat) for sentence in split_sentences(text)]
    assert kinds == [
        ("heading", "# Title"),
        ("heading", "Under"),
        ("prose", "Text::"),
        ("code", "x = 1 y = 2"),
        ("prose", "More."),
        ("code", "```py a. B c ```"),
        ("table", "| a | b |"),
        ("table", "|---|---|"),
        ("code", ">>> 1 + 1"),
        ("item", "Someone Else"),
    ]


def test_header_fields_are_lines_of_their_own() -> None:
    assert _texts("PEP: 309\nTitle: Partial Function\nStatus: Final\n\nText.")[:3] == [
        "PEP: 309",
        "Title: Partial Function",
        "Status: Final",
    ]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="aB1 .!?\n\t#-*`=:|>\u3002é", max_size=300), st.integers(10, 80))
def test_every_sentence_is_a_verbatim_span_in_order(text: str, limit: int) -> None:
    last = 0
    for sentence in split_sentences(text, max_chars=limit):
        assert text[sentence.start : sentence.end] == sentence.text != ""
        assert sentence.start >= last and len(sentence.text) <= limit
        last = sentence.end


def test_hostile_texts_take_no_time() -> None:
    start = time.perf_counter()
    for text in (
        "x" * 2_000_000,
        "a. " * 200_000,
        "(" * 200_000,
        "```\n" * 100_000,
        "-" * 500_000,
        "\n" * 500_000,
    ):
        split_sentences(text)
    assert time.perf_counter() - start < 20


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abc de.\n日本=-1", max_size=600), st.integers(8, 60))
def test_windows_keep_everything_and_stay_under_the_limit(text: str, limit: int) -> None:
    pieces = windows(text, limit)
    assert all(estimate_tokens(piece) <= limit for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_ten_megabyte_text_is_windowed_whole() -> None:
    text = "The river rose again today and the bridge was closed. " * 185_000
    pieces = windows(text, 250)
    assert sum(len(piece) for piece in pieces) > 0.98 * len(text) and len(text) > 9_900_000


def test_words_numbers_and_names() -> None:
    assert stem("libraries") == "library" and stem("classes") == "class" and stem("running") == "run"
    assert content_words("The houses were painted") == ["hous", "paint"]
    assert content_words("日本語") == ["日本", "本語"]
    assert numbers("In 1,024 cases, 3.5 of x86 and 07:30") == {"1024", "3.5", "07:30"}
    assert names("Yesterday Ada Byron used numpy and PyPI in a call_back. Then she left.") == {
        "Ada",
        "Byron",
        "PyPI",
        "call_back",
    }
