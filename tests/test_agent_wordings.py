"""Wordings that ask for something to be done with a text, and wordings that do not."""

from __future__ import annotations

import time

import pytest

from agent.planner.arguments import is_talk, shows, wants_summary, wants_writing


@pytest.mark.parametrize(
    ("message", "talk"),
    [
        ("hi", True),
        ("Hello there!", True),
        ("thanks a lot!", True),
        ("thank you very much", True),
        ("ok, great", True),
        ("Who are you?", True),
        ("what can you do?", True),
        ("guten Morgen", True),
        ("thanks, and what is NF4?", False),
        ("hello world in Python", False),
        ("what is the notice period?", False),
        ("who are you to decide the rule?", False),
        ("", False),
        ("hello " * 2000, False),
    ],
)
def test_talk(message: str, talk: bool) -> None:
    assert is_talk(message) is talk


@pytest.mark.parametrize(
    ("message", "seen", "gist"),
    [
        ("what is in README.md", True, True),
        ("please show me the file README.md", True, True),
        ("Open notes.txt", True, True),
        ("what's inside this file?", True, True),
        ("read setup.cfg and tell me the version", False, False),
        ("what is in the box that README.md names?", False, False),
        ("summarize this", False, True),
        ("tl;dr", False, True),
        ("what is it about?", False, True),
        ("tell me about README.md", False, True),
        ("what does README.md say about the licence?", False, False),
        ("what is the licence?", False, False),
        ("", False, False),
    ],
)
def test_seeing_and_summing_up(message: str, seen: bool, gist: bool) -> None:
    assert (shows(message), wants_summary(message)) == (seen, gist)


@pytest.mark.parametrize(
    ("message", "writes"),
    [
        ("translate it to German", True),
        ("Write a reply to this", True),
        ("please fix the typos", True),
        ("make it shorter", True),
        ("which python does it need?", False),
        ("who wrote it?", False),
        ("how do I make a backup?", False),
    ],
)
def test_asking_for_new_words(message: str, writes: bool) -> None:
    assert wants_writing(message) is writes


def test_no_wording_takes_long() -> None:
    started = time.perf_counter()
    for message in ("what is " + "a." * 5000, "hello, " * 5000, "show me the " * 5000, " " * 20000 + "x"):
        is_talk(message), shows(message), wants_summary(message), wants_writing(message)
    assert time.perf_counter() - started < 2
