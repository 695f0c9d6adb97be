"""Speculative decoding gives exactly what plain decoding gives, in fewer steps if the text repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llms.decoders.base import StepResult
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.engine.engine import Engine
from llms.engine.request import GenerationRequest
from llms.engine.speculation import SIZES, AcceptanceTracker, DraftTracker, Ngrams, verify
from llms.engine.stream import Stream


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=24, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=None,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def lookup(tokens: list[int], most: int) -> list[int]:
    """What `Ngrams.guess` must find, by looking through the whole text."""
    for size in SIZES:
        for at in range(len(tokens) - size - 1, -1, -1):
            if tokens[at : at + size] == tokens[-size:]:
                return tokens[at + size : at + size + most]
    return []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 5), st.integers(0, 40))
def test_guesses_are_what_followed_the_latest_occurrence(tokens: list[int], most: int, cut: int) -> None:
    text = Ngrams(tokens[:cut])
    text.extend(tokens[cut:])
    assert text.propose(most) == lookup(tokens, most)


def test_the_longer_context_wins() -> None:
    text = [1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2, 3]
    assert Ngrams(text).propose(2) == [5, 6] and Ngrams(text).propose(99) == [5, 6, 7, 1, 2, 3]
    assert Ngrams([8, 2, 3, 4, 7, 2, 3]).propose(3) == [4, 7, 2]
    assert (
        Ngrams([1, 2, 3, 4]).propose(3) == []
        and Ngrams([1]).propose(3) == []
        and Ngrams(text).propose(-1) == []
    )


def test_verify_stops_at_the_first_wrong_guess() -> None:
    assert verify([3, 1, 4, 2], [3, 1, 5]) == [3, 1, 4]
    assert verify([3, 1, 4, 2], [3, 1, 4]) == [3, 1, 4, 2]
    assert verify([3, 1], [0]) == [3]


def test_guesses_begin_where_they_pay_and_end_where_they_do_not() -> None:
    acceptance = AcceptanceTracker()
    assert acceptance.pays(), "a text that quotes is expected"
    for _ in range(8):
        acceptance.learn(0, 1)
    assert not acceptance.pays(), "it does not quote"
    for _ in range(20):
        acceptance.learn(5, 3)
    assert acceptance.pays()
    for _ in range(30):
        acceptance.learn(5, 1)
    assert not acceptance.pays()
    for _ in range(30):
        acceptance.learn(0, 1)
    assert not acceptance.pays(), "without guesses a step launched ahead is the faster one"


@pytest.mark.parametrize(("verifying", "expected"), [(0.0025, True), (0.0052, False)])
def test_what_steps_take_decides(verifying: float, expected: bool) -> None:
    acceptance = AcceptanceTracker()
    for _ in range(40):
        acceptance.learn(5, 2)
    for _ in range(15):
        acceptance.took("ahead", 0.002)
        acceptance.took("verify", verifying)
    acceptance.took("verify", 9.0)  # a reader that paused
    assert acceptance.pays() == expected


def test_a_course_follows_what_guesses_would_have_given() -> None:
    text, steps = [1, 2, 3, 4, 5, 6, 7, 8, 9], []
    tracker = DraftTracker(text, 3)
    learn = tracker.acceptance.learn
    tracker.acceptance.learn = lambda *step: (steps.append(step), learn(*step))[1]  # type: ignore[method-assign]
    tracker.note([2, 3, 4, 5, 6])
    # 2 and 3 without a guess; [4, 5, 6] guessed after them and kept, with one token more to come
    assert steps == [(0, 1), (0, 1)]
    tracker.note([7, 5])
    assert steps == [(0, 1), (0, 1), (3, 4), (3, 1)]
    assert tracker.text.tokens == [*text, 2, 3, 4, 5, 6, 7, 5]


def asked(start: int, how: Sampling, **kwargs: Any) -> GenerationRequest:
    prompt = tuple((start + i * i) % 24 for i in range(12)) * 2
    return GenerationRequest(
        prompt=prompt, max_tokens=60, decode=lambda ids: "." * len(ids), sampling=how, **kwargs
    )


class Counting(ReferenceDecoder):
    """Says that guesses pay, and counts steps."""

    max_draft = 7
    steps = 0

    def step(self, *arguments: Any, **options: Any) -> StepResult:
        self.steps += 1
        return super().step(*arguments, **options)


def tokens_of(stream: Stream) -> list[int]:
    return [token for piece in stream.result() for token in piece.tokens]


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.6, top_p=0.9, seed=11)])
@pytest.mark.parametrize("start", [0, 5, 9])
def test_the_engine_gives_the_same_tokens_with_guesses(
    model: Any, how: Sampling, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AcceptanceTracker, "took", lambda *arguments: None)  # a CPU's own times say no
    plain_engine = Engine(ReferenceDecoder(model, window=200, max_slots=4))
    guessing = Counting(model, window=200, max_slots=4)
    engine = Engine(guessing)
    end = frozenset({tokens_of(plain_engine.submit(asked(start, how)))[40]})
    for kwargs in ({}, {"end_ids": end}, {"stops": ("." * 33,)}, {"repetition_penalty": 0.7}):
        expected = tokens_of(plain_engine.submit(asked(start, how, **kwargs)))
        assert tokens_of(engine.submit(asked(start, how, **kwargs))) == expected
    if how.temperature == 0:  # a random greedy model falls into a loop, which look-up predicts
        assert guessing.steps < 160
    two = [engine.submit(asked(start, how)), engine.submit(asked(start + 1, how))]
    expected_two = [tokens_of(plain_engine.submit(asked(start + i, how))) for i in range(2)]
    assert [tokens_of(stream) for stream in two] == expected_two


def test_a_decoder_that_names_no_guesses_is_asked_for_one_token_at_a_time(model: Any) -> None:
    engine = Engine(ReferenceDecoder(model, window=200, max_slots=2))
    stream = engine.submit(asked(0, Sampling()))
    stream.next_piece()
    assert engine.scheduler.active == [stream.sequence]
    assert engine.runner.drafter.candidate([stream.sequence]) is None
