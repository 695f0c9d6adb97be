"""The reference decoder: the contract on the embedded model, and sliding windows on a tiny one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoder_contract import EmbeddedContract

from llms.decoders.base import Decoder
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling, sample, uniform
from llms.errors import UnsupportedModel


class TestReferenceOnTheEmbeddedModel(EmbeddedContract):
    @pytest.fixture
    def decoder(self, embedded: Any) -> Decoder:
        return ReferenceDecoder(embedded.model, window=512, max_slots=16)


def tiny(window: int | None) -> Any:
    """A random Mistral of two layers, in fp32."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=window,
        bos_token_id=1,
        eos_token_id=2,
    )
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sliding_window_is_honoured_in_every_batch_shape(attention: str) -> None:
    model = tiny(8)
    model.set_attn_implementation(attention)
    decoder = ReferenceDecoder(model, max_slots=4)
    sequences = [[(7 * i + j) % 128 for i in range(20 + 3 * j)] for j in range(3)]
    with torch.inference_mode():
        expected = [model(torch.tensor([s])).logits[0, -1] for s in sequences]
    decoder.step([0, 1, 2], [s[:-5] for s in sequences])
    found = decoder.step([0, 1, 2], [s[-5:] for s in sequences]).logits
    for row, other in zip(found, expected, strict=True):
        torch.testing.assert_close(row, other, atol=1e-5, rtol=0)
    for row, s in zip(expected, sequences, strict=True):
        decoder.free(3)
        for token in s[:-1]:
            decoder.prefill(3, [token])
        torch.testing.assert_close(decoder.prefill(3, s[-1:]), row, atol=1e-5, rtol=0)


def test_models_without_a_plain_cache_are_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(UnsupportedModel, match="mamba"):
        ReferenceDecoder(MambaForCausalLM(config))


def test_a_row_that_saw_nan_does_not_poison_the_next() -> None:
    model = tiny(None)
    decoder = ReferenceDecoder(model, max_slots=3)
    decoder.prefill(0, [1, 2, 3])
    decoder.prefill(1, list(range(40)))
    with torch.inference_mode():
        for page in decoder._store.tensors(1):
            page.fill_(torch.nan)
    decoder.free(1)
    decoder.prefill(2, [4, 5])
    assert not torch.as_tensor(decoder.step([0, 2], [[6], [7]]).logits).isnan().any()


@pytest.mark.parametrize(
    ("how", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {3, 1}),
        (Sampling(temperature=1.0, top_p=0.6), {3}),
        (Sampling(temperature=1.0, min_p=0.3), {3, 1}),
        (Sampling(), {3}),
    ],
)
def test_filters_keep_what_they_say(how: Sampling, allowed: set[int]) -> None:
    logits = torch.log(torch.tensor([[0.05, 0.25, 0.08, 0.62]]))
    drawn = {int(sample(logits, [how], [position])) for position in range(200)}
    assert drawn == allowed


def test_samples_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log()[None]
    draws = [int(sample(logits, [Sampling(temperature=1.0, seed=7)], [p])) for p in range(4000)]
    counts = torch.bincount(torch.tensor(draws), minlength=4) / 4000
    assert (counts - probabilities).abs().max() < 0.03


def test_the_random_number_is_uniform_and_depends_on_seed_and_position() -> None:
    numbers = [uniform(3, p) for p in range(1000)]
    assert all(0 <= n < 1 for n in numbers) and 0.45 < sum(numbers) / 1000 < 0.55
    assert len({uniform(seed, 5) for seed in range(1000)}) == 1000


def test_memory_is_given_back_when_nothing_is_kept() -> None:
    decoder: Any = ReferenceDecoder(tiny(None), max_slots=4)
    decoder.prefill(0, [1, 2, 3])
    assert decoder._store.allocated > 0
    decoder.free(0)
    assert decoder._store.allocated == 0
