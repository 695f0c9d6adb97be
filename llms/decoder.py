"""The seam between tensors and policy: a `Decoder` runs a model over slots of KV cache.

Knows token ids, slots, logits. Refuses to know text, templates, end tokens, requests and scheduling: these
are the `Engine`'s. Implementations: `llms.reference` (plain transformers), `llms.lean` (small models on the
CPU) and `llms.fast` (NF4 on a GPU). All inherit one contract suite.

A slot is one sequence's KV cache, named by an int in range(max_slots); a slot that was never used is empty.
A decoder is not thread-safe: its owner (the engine) serializes the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llms.engine.sampling import Sampling


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
