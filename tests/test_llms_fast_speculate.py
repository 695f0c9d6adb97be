"""Speculation gives exactly what plain decoding gives, in fewer steps where text repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llms.fast.speculate import Pace, Speculation, lookup, verify
from llms.reference import ReferenceDecoder
from llms.sampling import Sampling


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
