"""`summarize --length`: valid and invalid values."""

from __future__ import annotations

import click
import pytest

from agent.cli.tasks import summarize


def _parse(length: str) -> dict[str, int]:
    return dict(summarize.make_context("summarize", ["--length", length]).params["length"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", {"sentences": 5}),
        ("1s", {"sentences": 1}),
        ("3 sentences", {"sentences": 3}),
        ("200w", {"words": 200}),
        ("80 words", {"words": 80}),
    ],
)
def test_lengths_in_words_and_sentences(text: str, expected: dict[str, int]) -> None:
    assert _parse(text) == expected


@pytest.mark.parametrize("text", ["0", "short", "-1", "5001", "5 pages", ""])
def test_other_lengths_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 200w or 5s"):
        _parse(text)
