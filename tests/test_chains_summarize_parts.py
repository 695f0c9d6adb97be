"""Header fields, markup, and sentences that need the one before them."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import WordEmbeddings
from langchain_core.documents import Document

from chains.summarize import Style, summarize_chain
from chains.summarize.extract import Digest, choose
from chains.summarize.parts import (
    front_matter_end,
    needs_context,
    split_parts,
    states_purpose,
    title,
    without_markup,
)

MAIL = "From: Ida\nSubject: The tower clock\nX-Old:\n\n" + (
    "The clock has stopped again. Please send somebody to the tower.\n"
)


@pytest.mark.parametrize(
    ("text", "kept", "named"),
    [
        (MAIL, "The clock has", "The tower clock"),
        ('---\ntitle: "Of bees"\n---\nBees hum.', "Bees hum.", "Of bees"),
        ("PEP: 1\nTitle: A\nAuthor: B <b@c>,\n        D\n\nIntroduction\n", "Introduction", "A"),
        ("Note: one field makes no header.\n\nSo.", "Note:", ""),
        ("Plain text.", "Plain text.", ""),
        ("---\nno end", "---\nno end", ""),
    ],
)
def test_header_fields_are_told_from_the_text(text: str, kept: str, named: str) -> None:
    assert text[front_matter_end(text) :].lstrip().startswith(kept)
    assert title(text) == named


def test_header_fields_are_in_no_summary_but_name_the_part() -> None:
    found = summarize_chain(None, embeddings=WordEmbeddings(), style=Style(sentences=5)).invoke(MAIL)
    assert found.text.startswith("The clock has stopped again.") and "Ida" not in found.text
    assert found.parts[0].heading == "The tower clock" and found.parts[0].start == 0
    only = summarize_chain(None, embeddings=WordEmbeddings()).invoke("From: Ida\nTo: Marten\n")
    assert "Ida" in only.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[It](https://x.y/z) and\n``len()`` of *every* **big** box.", "It and `len()` of every big box."),
        (":pep:`8`, :func:`~os.path`, as `Knuth <https://k>`_ said [1]_.", "PEP 8, os.path, as Knuth said."),
        ("The \\*Network classes", "The *Network classes"),
        ("f(*args, **kwargs) costs 2 * 3 * 4 in `x_y`", "f(*args, **kwargs) costs 2 * 3 * 4 in `x_y`"),
    ],
)  # fmt: skip
def test_markup_gives_way_to_its_words(text: str, shown: str) -> None:
    assert without_markup(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "It is so.",
        "However, rain fell.",
        "These are rare.",
        "(See below.)",
        "and so on.",
        "Is it?",
        "No end here",
    ],
)
def test_what_leans(text: str) -> None:
    assert needs_context(text)


@pytest.mark.parametrize(
    "text", ["This report is long.", "Itineraries vary.", "The `xrange` type is old.", "雨が降った。"]
)
def test_what_stands_alone(text: str) -> None:
    assert not needs_context(text)


def test_what_announces() -> None:
    assert states_purpose("This paper also describes a clock.") and states_purpose("Here we propose a fix.")
    assert not states_purpose("This clock describes a circle.")


def test_a_leaning_sentence_pays_for_standing_alone() -> None:
    text = (
        "Geese fly south in autumn. It is a long way to the southern autumn lakes. Tax forms are due in May."
    )
    rows = np.asarray([[1.0, 0.0], [0.95, 0.31], [0.0, 1.0]], dtype=np.float32)
    digests = [Digest((0, 1, 2), rows, rows.mean(axis=0), 1.0)]
    parts = split_parts([Document(text)])
    assert choose(parts, digests, Style(sentences=1), None) == [(0, 0)]
    near = np.asarray([[0.95, 0.31], [0.96, 0.28]], dtype=np.float32)
    alone = [Digest((1, 2), near, rows.mean(axis=0), 1.0)]
    assert choose(parts, alone, Style(sentences=1), None) == [(0, 2)]
