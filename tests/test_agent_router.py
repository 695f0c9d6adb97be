"""The router's own parts: signals, examples, weights in the cache, a user's tools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent.route_signals import python_in, signals
from agent.router import ROUTES, Router, read_examples


@pytest.fixture(scope="module")
def router(embeddings: Any) -> Router:
    return Router(embeddings, tools={"weather": "Tells the weather forecast for a city and a day."})


def test_every_route_has_examples_and_none_is_said_twice() -> None:
    examples = read_examples()
    assert {route for route, _ in examples} == set(ROUTES)
    assert len({text for _, text in examples}) == len(examples)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("run this:\n```python\nprint(1)\n```", "print(1)"),
        ("Run `len('abc')` please", "len('abc')"),
        ("does it end?\n\nx = 3\nwhile x:\n    x -= 1", "x = 3\nwhile x:\n    x -= 1"),
        ("execute: print(sum(range(3)))", "print(sum(range(3)))"),
        ("What is a function?", None),
        ("I like trains (and boats)", None),
        ("x" * 3000 + "(", None),
    ],
)
def test_python_in(message: str, code: str | None) -> None:
    assert python_in(message) == code


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ("open ~/notes/a.md", "path"),
        ("what is 3 * 4", "expression"),
        ("20 percent of 80", "percent"),
        ("no code please", "no_code"),
        ("总结一下", "sum_words"),
        ("write a function", "imperative_code"),
    ],
)
def test_signals(message: str, signal: str) -> None:
    assert signals(message)[signal]


def test_signals_of_a_huge_message_take_little_time() -> None:
    started = time.perf_counter()
    signals("a, b (" * 200_000)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("message", "route"),
    [
        ("What is 12 * 12?", "calculator"),
        ("Write a Python function that counts vowels.", "code"),
        ("Summarize this text: The shop opens at nine. It closes at six.", "summarize"),
        ("Run this code: print(3)", "run"),
        ("Tell me a joke", "direct"),
        ("Open notes.txt and tell me what it says", "file"),
    ],
)
def test_plain_messages_take_their_route(router: Router, message: str, route: str) -> None:
    decision = router.route(message)
    assert decision.route == route and 0 < decision.probability <= 1 and decision.reason


def test_a_route_that_is_not_available_is_answered_directly(router: Router) -> None:
    decision = router.route("What is 12 * 12?", available=("direct",))
    assert decision.route == "direct" and "not available" in decision.reason


def test_a_users_tool_is_found_by_its_description(router: Router) -> None:
    decision = router.route("What will the weather be in Oslo tomorrow?")
    assert (decision.route, decision.tool) == ("tool", "weather")
    assert router.route("Tell me a joke about a penguin").tool is None


def test_weights_are_kept_and_a_damaged_file_is_made_anew(embeddings: Any, tmp_path: Path) -> None:
    first = Router(embeddings, cache=tmp_path).route("What is 12 * 12?")
    (file,) = tmp_path.glob("router-*.npy")
    started = time.perf_counter()
    assert Router(embeddings, cache=tmp_path).route("What is 12 * 12?") == first
    kept = time.perf_counter() - started
    file.write_bytes(file.read_bytes()[:50])
    assert Router(embeddings, cache=tmp_path).route("What is 12 * 12?") == first
    assert file.stat().st_size > 50 and kept < 2


def test_a_cache_that_cannot_be_written_changes_nothing(embeddings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Router(embeddings, cache=tmp_path / "file").route("What is 12 * 12?").route == "calculator"
