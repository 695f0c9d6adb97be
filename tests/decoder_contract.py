"""Tests that every `Decoder` passes. Inherit, and provide `decoder`, a transformers `model`, `tokenizer`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from llms.decoders.base import Decoder, StepResult
from llms.decoders.sampling import MOST_BIASES, Sampling, sample

TOLERANCE = 1e-3
"""Largest difference of logits in any batch from those of one plain pass (fp32; 8e-5 was measured)."""

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small",
    "def add(a, b):\n    return",
    "Water boils at one hundred degrees, and it freezes at",
)


class DecoderContract:
    """Inherit in a class named Test..., and override the fixtures."""

    tolerance = TOLERANCE
    slips = 0
    """Tokens of a test that may differ, for a decoder that adds probabilities in another order."""

    @pytest.fixture
    def decoder(self) -> Decoder:
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def tokenizer(self) -> Any:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _empty(self, decoder: Decoder) -> Iterator[None]:
        yield
        for slot in range(min(decoder.max_slots, 16)):
            decoder.free(slot)

    @pytest.fixture
    def prompts(self, tokenizer: Any) -> list[list[int]]:
        return [tokenizer(text)["input_ids"] for text in TEXTS]

    def plain(self, model: Any, ids: list[int]) -> torch.Tensor:
        """Return the reference of every test: the logits fp32 [k, V] of one forward pass without a cache."""
        with torch.inference_mode():
            out = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
        return torch.as_tensor(out).float().cpu()

    def close(self, found: Any, expected: torch.Tensor) -> None:
        difference = (torch.as_tensor(found).float().cpu() - expected).abs().max().item()
        assert difference <= self.tolerance, f"logits differ by {difference}"

    def test_is_a_decoder(self, decoder: Decoder) -> None:
        assert isinstance(decoder, Decoder)
        assert decoder.describe()
        assert decoder.bytes_per_token > 0 and decoder.window > 0 and decoder.max_slots >= 4

    def test_prefill_gives_the_last_logits(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        logits = decoder.prefill(0, prompts[0])
        assert logits.shape == (decoder.vocab_size,) and logits.dtype == torch.float32
        assert decoder.length(0) == len(prompts[0])
        self.close(logits, self.plain(model, prompts[0])[-1])

    def test_prefill_goes_on_where_it_stopped(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        decoder.prefill(1, prompts[1][:3])
        self.close(decoder.prefill(1, prompts[1][3:]), self.plain(model, prompts[1])[-1])

    def test_a_ragged_batch_matches_single_passes(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        result = decoder.step([2, 0, 3, 1], prompts)
        assert isinstance(result, StepResult) and result.tokens is None
        for row, prompt in zip(result.logits, prompts, strict=True):
            self.close(row, self.plain(model, prompt)[-1])
        again = decoder.step([1, 3], [[5, 6, 7], [8]], all_logits=True)
        assert [len(row) for row in again.logits] == [3, 1]
        self.close(again.logits[0], self.plain(model, [*prompts[3], 5, 6, 7])[-3:])
        self.close(again.logits[1], self.plain(model, [*prompts[2], 8])[-1:])

    def test_greedy_tokens_are_those_of_generate(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        slots, steps = [0, 1, 2, 3], 6
        logits = decoder.step(slots, prompts).logits
        found = [[int(torch.as_tensor(row).argmax())] for row in logits]
        for _ in range(steps - 1):
            result = decoder.step(slots, [row[-1:] for row in found], [Sampling()] * 4)
            assert result.tokens is not None
            for row, token in zip(found, result.tokens.tolist(), strict=True):
                row.append(token)
        for prompt, row in zip(prompts, found, strict=True):
            out = model.generate(
                torch.tensor([prompt], device=model.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
                max_new_tokens=steps,
                do_sample=False,
                eos_token_id=None,
            )
            assert self.same_up_to_near_ties(model, prompt, row, out[0, len(prompt) :].tolist())

    def sampled(self, logits: torch.Tensor, hows: list[Sampling], held: list[list[int]]) -> torch.Tensor:
        """Return what the sampling rules draw from logits [n, V] after the tokens of `held`."""
        return sample(logits, hows, [len(tokens) for tokens in held], held)

    def same_up_to_near_ties(
        self, model: Any, prompt: list[int], found: list[int], expected: list[int]
    ) -> bool:
        """Return whether texts are equal up to a place where both tokens have logits within the tolerance."""
        for place, (a, b) in enumerate(zip(found, expected, strict=True)):
            if a != b:
                logits = self.plain(model, [*prompt, *expected[:place]])[-1]
                return bool((logits[a] - logits[b]).abs() <= self.tolerance)
        return True

    def test_sampled_tokens_may_be_given_back_as_a_tensor(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        first = decoder.step([0, 1], prompts[:2], [Sampling()] * 2)
        assert first.tokens is not None and first.tokens.dtype == torch.int64
        tensor = decoder.step([0, 1], first.tokens, [Sampling()] * 2).logits
        for slot, prompt in enumerate(prompts[:2]):
            decoder.truncate(slot, len(prompt))
        lists = decoder.step([0, 1], [[t] for t in first.tokens.tolist()], [Sampling()] * 2).logits
        self.close(tensor, torch.as_tensor(lists).float().cpu())

    def test_some_tokens_may_be_given_as_a_tensor_and_others_as_lists(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        first = decoder.step([0, 1], prompts[:2], [Sampling()] * 2).tokens
        assert first is not None
        result = decoder.step([1, 0, 2, 3], [prompts[2], [7]], given=first.flip(0))
        texts = [[*prompts[1], int(first[1])], [*prompts[0], int(first[0])], prompts[2], [7]]
        for row, text in zip(result.logits, texts, strict=True):
            self.close(row, self.plain(model, text)[-1])
        assert [decoder.length(slot) for slot in (1, 0, 2, 3)] == [len(text) for text in texts]

    def test_penalty_and_biases_are_those_of_the_rules(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        """Compared on each decoder's own logits, after a fork, a longer list and tokens sampled earlier."""
        hows = [
            Sampling(repetition_penalty=1.4), Sampling(logit_bias=((9, 30.0), (4, -3.0))),
            Sampling(temperature=0.9, seed=5, repetition_penalty=0.6, logit_bias=((11, 2.5),)),
            Sampling(temperature=0.8, seed=6, top_k=8, top_p=0.9, min_p=0.01, repetition_penalty=2.0),
        ]  # fmt: skip
        decoder.prefill(0, prompts[0])
        decoder.fork(0, 1, 3)
        held = [list(prompts[0]), prompts[0][:3], [], []]
        lists, wrong = [prompts[3], prompts[1], prompts[2], prompts[3]], 0
        for _ in range(8):
            result = decoder.step([0, 1, 2, 3], lists, hows)
            held = [before + row for before, row in zip(held, lists, strict=True)]
            expected = self.sampled(torch.as_tensor(result.logits), hows, held).tolist()
            assert result.tokens is not None
            lists = [[token] for token in result.tokens.tolist()]
            wrong += sum(row != [token] for row, token in zip(lists, expected, strict=True))
            assert lists[1] == [9]
        assert wrong <= self.slips

    def test_every_token_of_a_list_may_be_sampled_after(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        how = Sampling(temperature=1.0, seed=3, repetition_penalty=1.3)
        result = decoder.step([0, 1], prompts[:2], [how, Sampling()], all_logits=True)
        assert result.drawn is not None and result.tokens is not None
        assert [len(row) for row in result.drawn] == [len(p) for p in prompts[:2]]
        assert [int(row[-1]) for row in result.drawn] == result.tokens.tolist()
        assert result.drawn[1].tolist() == result.logits[1].argmax(-1).tolist()
        held = [prompts[0][:end] for end in range(1, len(prompts[0]) + 1)]
        expected = self.sampled(result.logits[0], [how] * len(held), held)
        assert int((result.drawn[0] != expected).sum()) <= self.slips

    def test_biases_are_checked(self, decoder: Decoder) -> None:
        many = tuple((i, 1.0) for i in range(MOST_BIASES + 1))
        for bias in (((decoder.vocab_size, 1.0),), ((-1, 1.0),), many):
            with pytest.raises(ValueError):
                decoder.step([0], [[1]], [Sampling(logit_bias=bias)])
        with pytest.raises(ValueError):
            decoder.step([0], [[1]], [])
        assert decoder.length(0) == 0

    def test_fork_copies_and_parts(self, decoder: Decoder, model: Any, prompts: list[list[int]]) -> None:
        decoder.prefill(0, prompts[1])
        decoder.fork(0, 2, 4)
        assert decoder.length(2) == 4 and decoder.length(0) == len(prompts[1])
        self.close(decoder.prefill(2, [9, 10]), self.plain(model, [*prompts[1][:4], 9, 10])[-1])
        self.close(decoder.prefill(0, [11]), self.plain(model, [*prompts[1], 11])[-1])

    def test_truncate_forgets(self, decoder: Decoder, model: Any, prompts: list[list[int]]) -> None:
        decoder.prefill(0, [*prompts[0], 40, 41])
        decoder.truncate(0, len(prompts[0]))
        self.close(decoder.prefill(0, [50]), self.plain(model, [*prompts[0], 50])[-1])

    def test_a_member_that_leaves_does_not_disturb_the_others(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        decoder.step([0, 1, 2, 3], prompts)
        decoder.free(1)
        assert decoder.length(1) == 0
        rows = decoder.step([0, 2, 3], [[1], [2], [3]]).logits
        for row, prompt, token in zip(rows, [prompts[i] for i in (0, 2, 3)], (1, 2, 3), strict=True):
            self.close(row, self.plain(model, [*prompt, token])[-1])

    def test_bad_steps_are_refused_and_change_nothing(
        self, decoder: Decoder, model: Any, prompts: list[list[int]]
    ) -> None:
        decoder.prefill(0, prompts[0])
        for slots, tokens in (([0, 0], [[1], [1]]), ([0], [[]]), ([0, 1], [[1]]), ([0], [[-1]])):
            with pytest.raises(ValueError):
                decoder.step(slots, tokens)
        with pytest.raises(ValueError):
            decoder.step([0], [[decoder.vocab_size]])
        with pytest.raises(ValueError):
            decoder.prefill(decoder.max_slots, [1])
        with pytest.raises(ValueError):
            decoder.fork(0, 1, len(prompts[0]) + 1)
        with pytest.raises(ValueError):
            decoder.truncate(0, len(prompts[0]) + 1)
        with pytest.raises(IndexError):
            decoder.step([0], [[1] * (decoder.window + 1)])
        assert decoder.length(0) == len(prompts[0])
        self.close(decoder.prefill(0, [7]), self.plain(model, [*prompts[0], 7])[-1])

    def test_the_same_seed_draws_the_same_in_any_batch(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        how = [Sampling(temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4)]
        batch = decoder.step([0, 1, 2, 3], prompts, how).tokens
        assert batch is not None
        for slot, prompt in enumerate(prompts):
            decoder.free(slot)
            alone = decoder.step([slot], [prompt], [how[slot]]).tokens
            assert alone is not None and int(alone[0]) == int(batch[slot])


class EmbeddedContract(DecoderContract):
    """The same tests on the embedded model in fp32; override only `decoder`."""

    @pytest.fixture
    def model(self, embedded: Any) -> Any:
        return embedded.model

    @pytest.fixture
    def tokenizer(self, embedded: Any) -> Any:
        return embedded.tokenizer
