"""The seam between tensors and policy: a `Decoder` runs a model over slots of KV cache.

Knows token ids, slots, logits. Refuses to know text, templates, end tokens, requests and scheduling: these
are the `Engine`'s. Implementations: `llms.decoders.reference` (plain transformers), `llms.lean` (small
models on the CPU) and `llms.decoders.cuda` (NF4 on a GPU). All inherit one contract suite.

A slot is one sequence's KV cache, named by an int in range(max_slots); a slot that was never used is empty.
A decoder is not thread-safe: its owner (the engine) serializes the calls.

What every decoder refuses, said once: slots, lengths and tokens outside what the contract allows.

Knows numbers; refuses to know what tensors hold, and caches. A decoder inherits it and supplies `max_slots`,
`window`, `vocab_size` and `length`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llms.decoders.sampling import MOST_BIASES, Sampling


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gives back.

    Attributes:
        logits: fp32 [n, V] on the decoder's device, row i after the last token given to slots[i]; with
            `all_logits`, a list of n tensors fp32 [k_i, V], row j after the j-th token given.
        tokens: int64 [n] on the decoder's device, the sampled next token of each slot (not yet in its cache);
            None unless `sampling` was given.
        drawn: With `all_logits`, a list of n tensors int64 [k_i]: what was sampled after each token given.
    """

    logits: Tensor | list[Tensor]
    tokens: Tensor | None = None
    drawn: list[Tensor] | None = None


@runtime_checkable
class Decoder(Protocol):
    """Runs a causal language model over slots.

    Attributes:
        vocab_size: Number of logits, V.
        window: Longest sequence a slot can hold, in tokens.
        max_slots: Number of slots.
        device: Where logits and sampled tokens live.
        bytes_per_token: Size of one token's keys and values over all layers, in bytes.

    An implementation may say more of itself, and the engine asks for it with a default:
        runs_ahead (False): A step returns before it has run, so that the next can be launched meanwhile.
        guesses (0): Tokens worth guessing and verifying in one step.
        room(): How many more tokens the cache holds over all slots, where that has a bound.
    """

    vocab_size: int
    window: int
    max_slots: int
    device: torch.device
    bytes_per_token: int

    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""
        ...

    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens (>= 1) to a slot's cache.

        Long prompts are cut into chunks inside: memory does not grow with the square of the length.

        Returns:
            fp32 [V], the logits after the last token.

        Raises:
            ValueError: No tokens, a token outside the vocabulary, or a slot outside range(max_slots).
            IndexError: The slot would hold more than `window` tokens. The slot is as before.
        """
        ...

    def step(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]] | Tensor,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
        given: Tensor | None = None,
    ) -> StepResult:
        """Append 1..k tokens to each of n different slots in one forward pass.

        Args:
            slots: n different slots.
            tokens: n lists of 1..k tokens (ragged), or an int64 [n] tensor of one token a slot: the `tokens`
                of the step before may be given back without the host waiting for them.
            sampling: n settings: sample the next token of each slot on the device.
            all_logits: Return the logits after every token given instead of those after the last, and what
                is sampled there as `drawn`.
            given: int64 [m], one token for each of the first m slots; `tokens` are then the n - m lists of
                the others.

        Raises:
            ValueError: Slots repeat, a list is empty, lengths differ, or a token is outside the vocabulary.
            IndexError: A slot would hold more than `window` tokens. No slot has changed.
        """
        ...

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Make the target's cache a copy of the source's first `length` tokens (default: all of them).

        What the target held is dropped. The two are independent afterwards. A fork onto itself truncates.

        Raises:
            ValueError: `length` is negative or larger than the source's length.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot.

        Raises:
            ValueError: `length` is negative or larger than the slot's length.
        """
        ...

    def free(self, slot: int) -> None:
        """Empty a slot; its memory may be given back."""
        ...

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and on what it runs."""
        ...


class SlotChecks:
    """The checks of `llms.decoders.base.Decoder`'s contract, made before anything changes."""

    max_slots: int
    window: int
    vocab_size: int

    @abstractmethod
    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.max_slots:
            raise ValueError(f"Expected a slot in range({self.max_slots}), found {slot!r}.")

    def _check_length(self, slot: int, length: int) -> int:
        have = self.length(slot)
        if not 0 <= length <= have:
            raise ValueError(f"Expected 0 to {have} tokens, all that slot {slot} holds, found {length!r}.")
        return length

    def _check(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Refuse a malformed step."""
        if len(set(slots)) != len(slots) or len(slots) != len(tokens) or not slots:
            raise ValueError(f"Expected one token list for each of n different slots, found slots {slots!r}.")
        for slot, row in zip(slots, tokens, strict=True):
            have = self.length(slot)
            if not row:
                raise ValueError(f"Expected at least one token for slot {slot}, found none.")
            if min(row) < 0 or max(row) >= self.vocab_size:
                raise ValueError(
                    f"Expected tokens in range({self.vocab_size}), found {row!r} in slot {slot}."
                )
            if have + len(row) > self.window:
                raise IndexError(
                    f"Expected at most {self.window} tokens in slot {slot}, found {have} + {len(row)}."
                )

    def _check_sampling(self, sampling: Sequence[Sampling], count: int) -> None:
        """Refuse settings that are not one a slot, and biases that are too many or of no token."""
        if len(sampling) != count:
            raise ValueError(f"Expected {count} settings, one a slot, found {len(sampling)}.")
        for how in sampling:
            if len(how.logit_bias) > MOST_BIASES:
                raise ValueError(f"Expected at most {MOST_BIASES} biases, found {len(how.logit_bias)}.")
            for token, _ in how.logit_bias:
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"Expected biased tokens in range({self.vocab_size}), found {token!r}.")


def rows_of(
    tokens: Sequence[Sequence[int]] | Tensor, given: Tensor | None
) -> tuple[list[list[int]], Tensor | None]:
    """Return a step's lists, [0] for each slot whose token is given as a tensor, and that tensor."""
    if isinstance(tokens, Tensor):
        return [[0] for _ in range(len(tokens))], tokens
    first = [[0] for _ in range(0 if given is None else len(given))]
    return [*first, *(list(row) for row in tokens)], given
