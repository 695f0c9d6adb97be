"""The parts of the router: signals, examples, weights in the cache, a user's tools."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.planner import router as route_weights
from agent.planner.router import ROUTES, Router, read_examples, read_tool_examples
from agent.planner.signals import python_in, signals


class Remembering:
    """An embedder that embeds each text once: several tests learn from the same examples.

    Turned, its vectors are those of another embedder: the same, reversed.
    """

    def __init__(self, inner: Any, *, turned: bool = False) -> None:
        self._inner, self._turned = inner, turned
        self.known: dict[str, list[float]] = {}

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known.update(zip(new, self._inner.embed_documents(new) if new else [], strict=True))
        return [self.known[text][:: -1 if self._turned else 1] for text in texts]


@pytest.fixture(scope="module")
def remembering(embeddings: Any) -> Any:
    return Remembering(embeddings)


@pytest.fixture(scope="module")
def other(remembering: Any) -> Any:
    return Remembering(remembering, turned=True)


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


@pytest.mark.parametrize(
    "message",
    ["How do meteorologists predict the weather?", "Who invented the barometer?", "What is a cold front?"],
)
def test_a_near_miss_of_a_users_tool_is_answered_directly(router: Router, message: str) -> None:
    assert router.route(message).tool is None


def test_a_tool_without_a_description_is_routed_by_its_name(embeddings: Any) -> None:
    router = Router(embeddings, tools={"water_the_garden": "", "count_sheep": "\n"})
    assert router.route("Please water the garden.").tool == "water_the_garden"


def test_no_tool_of_the_labelled_sets_is_among_the_examples() -> None:
    data = Path(__file__).parent / "data"
    named = {
        n for s in ("tool_cases", "own_tools") for n in json.loads((data / f"{s}_tools.json").read_text())
    }
    said = {
        json.loads(line)["message"].casefold()
        for name in ("tool_cases", "own_tools")
        for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    }
    examples = read_tool_examples()
    assert not named & {example.tool for example in examples}
    assert not said & {example.message.casefold() for example in examples}
    assert {True, False} == {example.asks for example in examples} and len(examples) > 150


def test_the_weights_that_ship_are_what_the_examples_teach(remembering: Any) -> None:
    shipped, learned = route_weights.load(remembering), route_weights.learn(remembering)
    assert shipped is not learned
    np.testing.assert_allclose(shipped.routes, learned.routes, atol=2e-3)
    np.testing.assert_allclose(shipped.tool, learned.tool, atol=2e-3)


def test_the_weights_that_ship_are_used_without_learning(
    embeddings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def learn(_: Any) -> None:
        raise AssertionError("run `python -m agent.planner.router`: examples or signals have changed")

    monkeypatch.setattr(route_weights, "learn", learn)
    assert Router(embeddings, cache=tmp_path).route("What is 12 * 12?").route == "calculator"
    assert not list(tmp_path.iterdir())


def test_weights_for_another_embedder_are_kept_and_a_damaged_file_is_made_anew(
    other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Router(other, cache=tmp_path).route("What is 12 * 12?")
    assert first.route == "calculator"
    (file,) = tmp_path.glob("router-*.json")
    whole = file.read_text()
    with monkeypatch.context() as patched:
        patched.setattr(route_weights, "learn", None)
        kept = Router(other, cache=tmp_path).route("What is 12 * 12?")
    assert kept.route == first.route and abs(kept.probability - first.probability) < 1e-3
    file.write_text(whole[:500])
    assert Router(other, cache=tmp_path).route("What is 12 * 12?").route == "calculator"
    assert file.read_text() == whole


def test_a_cache_that_cannot_be_written_changes_nothing(other: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Router(other, cache=tmp_path / "file").route("What is 12 * 12?").route == "calculator"


def test_the_digest_of_the_signals_is_that_of_the_code() -> None:
    assert route_weights.signals_digest() == route_weights.SIGNALS_DIGEST
