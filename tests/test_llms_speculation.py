"""Speculation gives exactly what plain decoding gives, in fewer steps where text repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llms.decoder import StepResult
from llms.engine import Engine
from llms.engine_request import Handle, Request
from llms.reference import ReferenceDecoder
from llms.sampling import Sampling
from llms.speculation import Pace, Speculation, lookup, verify


@pytest.fixture(scope="module")
def decoder() -> ReferenceDecoder:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=24, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=None,
    )  # fmt: skip
    model: Any = MistralForCausalLM(config).eval()
    return ReferenceDecoder(model, window=200, max_slots=2)


def plain(decoder: ReferenceDecoder, prompt: list[int], count: int, how: Sampling) -> list[int]:
    decoder.free(0)
    decoder.prefill(0, prompt[:-1])
    out = [prompt[-1]]
    while len(out) <= count:
        tokens = decoder.step([0], [[out[-1]]], [how]).tokens
        assert tokens is not None
        out.append(int(tokens[0]))
    return out[1:]


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.6, top_p=0.9, seed=11)])
@pytest.mark.parametrize("start", [0, 5, 9])
def test_the_same_tokens_as_plain_decoding(decoder: ReferenceDecoder, how: Sampling, start: int) -> None:
    prompt = [(start + i * i) % 24 for i in range(12)] * 2
    expected = plain(decoder, prompt, 60, how)
    decoder.free(1)
    decoder.prefill(1, prompt[:-1])
    request = Speculation(decoder, 1, prompt, how, Pace(cost=0.0))
    while len(request.tokens) < len(prompt) + 60:
        before = decoder.length(1)
        new = request.advance()
        assert decoder.length(1) == before + len(new) == len(request.tokens) - 1
    assert request.tokens[len(prompt) : len(prompt) + 60] == expected
    if how.temperature == 0:  # a random greedy model falls into a loop, which look-up predicts
        assert len(request.accepted) < 50


def test_lookup_takes_what_followed_the_latest_occurrence() -> None:
    text = [1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2, 3]
    assert lookup(text, 2) == [5, 6]
    assert lookup(text, 99) == [5, 6, 7, 1, 2, 3]
    assert lookup([8, 2, 3, 4, 7, 2, 3], 3) == [4, 7, 2]
    assert lookup([1, 2, 3, 4], 3) == [] and lookup([1], 3) == [] and lookup(text, 0) == []


def test_verify_stops_at_the_first_wrong_guess() -> None:
    logits = torch.full((4, 6), -1.0)
    for row, token in enumerate((3, 1, 4, 2)):
        logits[row, token] = 1.0
    assert verify(logits, [3, 1, 5], Sampling(), 10)[0] == [3, 1, 4]
    assert verify(logits, [3, 1, 4], Sampling(), 10)[0] == [3, 1, 4, 2]
    assert verify(logits[:2], [0], Sampling(), 10)[0] == [3]


def test_guessing_stops_where_it_does_not_pay() -> None:
    pace = Pace(most=5, cost=1.5)
    assert pace.wanted() == 5
    for _ in range(20):
        pace.learn(5, 0)
    tries = [pace.wanted() for _ in range(64)]
    assert tries.count(5) == 4 and tries.count(0) == 60
    for _ in range(20):
        pace.learn(5, 4)
    assert pace.wanted() == 5


def asked(start: int, how: Sampling, **kwargs: Any) -> Request:
    prompt = tuple((start + i * i) % 24 for i in range(12)) * 2
    return Request(prompt=prompt, max_tokens=60, decode=lambda ids: "." * len(ids), sampling=how, **kwargs)


class Counting(ReferenceDecoder):
    """Says that guesses pay, and counts steps."""

    guesses = 7
    steps = 0

    def step(self, *arguments: Any, **options: Any) -> StepResult:
        self.steps += 1
        return super().step(*arguments, **options)


def tokens_of(handle: Handle) -> list[int]:
    return [token for piece in handle.result() for token in piece.tokens]


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.6, top_p=0.9, seed=11)])
@pytest.mark.parametrize("start", [0, 5, 9])
def test_the_engine_gives_the_same_tokens_with_guesses(
    decoder: ReferenceDecoder, how: Sampling, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llms.speculation.Pace.took", lambda *arguments: None)  # a CPU's own times say no
    plain_engine = Engine(ReferenceDecoder(decoder._model, window=200, max_slots=4))
    guessing = Counting(decoder._model, window=200, max_slots=4)
    engine = Engine(guessing)
    end = frozenset({tokens_of(plain_engine.submit(asked(start, how)))[40]})
    for kwargs in ({}, {"end_ids": end}, {"stops": ("." * 33,)}):
        expected = tokens_of(plain_engine.submit(asked(start, how, **kwargs)))
        assert tokens_of(engine.submit(asked(start, how, **kwargs))) == expected
    if how.temperature == 0:
        assert guessing.steps < 120
    two = [engine.submit(asked(start, how)), engine.submit(asked(start + 1, how))]
    expected_two = [tokens_of(plain_engine.submit(asked(start + i, how))) for i in range(2)]
    assert [tokens_of(handle) for handle in two] == expected_two


def test_guesses_stop_by_themselves_where_steps_are_dear() -> None:
    pace = Pace()
    for _ in range(30):
        pace.took(False, 0.002)
        pace.took(True, 0.008)
    assert pace.cost == pytest.approx(4.0) and [pace.wanted() for _ in range(15)] == [0] * 15
    for _ in range(60):
        pace.took(True, 0.0022)
    assert pace.wanted() == 7


def test_a_decoder_that_names_no_guesses_is_asked_for_one_token_at_a_time(decoder: ReferenceDecoder) -> None:
    engine = Engine(ReferenceDecoder(decoder._model, window=200, max_slots=2))
    handle = engine.submit(asked(0, Sampling()))
    assert tokens_of(handle) and engine.guesser.guess([handle], 1) == []
