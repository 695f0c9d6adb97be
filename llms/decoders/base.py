"""The interface between tensors and policy: a `Decoder` runs a model over slots of KV cache.

A decoder works on token ids, slots and logits. It does not know text, templates, end tokens, requests or
scheduling; these belong to the `Engine`. Every implementation inherits one suite of contract tests.

A slot is the KV cache of one sequence. Slots are numbered from 0 to max_slots - 1, and a slot that was never
used is empty. A decoder is not thread-safe: the engine calls it from one thread at a time.

A call that fails changes nothing, whatever it raises: after `prefill` and `step` every slot holds the tokens
that it held before. The one exception is `fork`, whose target is then empty.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llms.decoders.sampling import MOST_BIASES, Sampling


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step.

    Attributes:
        logits: fp32 [n, V] on the decoder's device: row i follows the last token given to slots[i]. With
            `all_logits`, a list of n tensors, fp32 [k_i, V]: row j follows the j-th token given.
        tokens: int64 [n] on the decoder's device: the sampled next token of each slot, which is not yet in
            its cache. None unless `sampling` was given.
        drawn: With `all_logits`, a list of n tensors, int64 [k_i]: the token sampled after each token given.
    """

    logits: Tensor | list[Tensor]
    tokens: Tensor | None = None
    drawn: list[Tensor] | None = None


@runtime_checkable
class Decoder(Protocol):
    """Runs a causal language model over slots.

    Attributes:
        vocab_size: Number of logits, V.
        window: Longest sequence that a slot can hold, in tokens.
        max_slots: Number of slots.
        device: The device of logits and sampled tokens.
        bytes_per_token: Size of one token's keys and values over all layers, in bytes. A slot holds whole
            pages of tokens, so `bytes_held` is what counts.

    An implementation may define more. The engine reads these with a default:
        runs_ahead (False): A step returns before it has run, so that the next one can be launched meanwhile.
        ragged (False): A pass costs the sum of its rows' tokens. If False, rows are padded to the longest.
        max_draft (0): Number of drafted tokens that one step can verify at little extra cost.
        room() (no limit): Number of tokens that still fit in the cache, over all slots.

    Example:
        logits = decoder.prefill(0, prompt)
        while (token := int(logits.argmax())) != end:
            logits = decoder.step([0], [[token]]).logits[0]
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
        """Append one or more tokens to a slot's cache.

        Long prompts are processed in chunks, so memory does not grow with the square of the length.

        Returns:
            fp32 [V], the logits after the last token.

        Raises:
            ValueError: There are no tokens, a token is not in the vocabulary, or the slot does not exist.
            IndexError: The slot would hold more than `window` tokens. The slot has not changed.
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
            tokens: n lists of 1..k tokens (they may differ in length), or an int64 [n] tensor with one token
                per slot. The `tokens` of the last step can be passed on without the host reading them.
            sampling: n sampling parameters, to sample the next token of each slot on the device.
            all_logits: Return the logits after every token given, not only after the last one, and the tokens
                sampled there as `drawn`.
            given: int64 [m], one token for each of the first m slots. `tokens` then has the n - m lists of
                the other slots.

        Raises:
            ValueError: A slot is repeated, a list is empty, the numbers of slots and lists differ, or a token
                is not in the vocabulary.
            IndexError: A slot would hold more than `window` tokens. No slot has changed.
        """
        ...

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Make the target's cache a copy of the source's first `length` tokens (default: all of them).

        The target's old content is dropped. The two are independent afterwards. A fork of a slot onto itself
        truncates it.

        Raises:
            ValueError: `length` is negative or larger than the source's length.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first `length` tokens of a slot.

        Raises:
            ValueError: `length` is negative or larger than the slot's length.
        """
        ...

    def free(self, slot: int) -> None:
        """Empty a slot. Its pages are free for other slots."""
        ...

    def bytes_held(self, slots: Iterable[int]) -> int:
        """Return the size of the KV cache of these slots in bytes. Pages that they share count once."""
        ...

    def trim(self) -> None:
        """Give memory that no slot holds back to the system, as far as the decoder can."""
        ...

    def describe(self) -> str:
        """Return one line for people that names the decoder and the device it runs on."""
        ...


class SlotChecks:
    """The checks of the `Decoder` contract, which are made before anything changes."""

    max_slots: int
    window: int
    vocab_size: int
    bytes_per_token: int

    @abstractmethod
    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""

    @abstractmethod
    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first `length` tokens of a slot."""

    def bytes_held(self, slots: Iterable[int]) -> int:
        """Return the size of the KV cache of these slots in bytes: that of their tokens, without pages."""
        return sum(self.length(slot) for slot in slots) * self.bytes_per_token

    def trim(self) -> None:
        """Do nothing: a decoder that keeps free memory overrides this."""

    @contextmanager
    def _restoring(self, slots: Sequence[int]) -> Iterator[None]:
        """Truncate the slots to the length that they have now if the work inside raises."""
        before = [(slot, self.length(slot)) for slot in slots]
        try:
            yield
        except BaseException:
            for slot, length in before:
                self.truncate(slot, length)
            raise

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.max_slots:
            raise ValueError(f"expected a slot in range({self.max_slots}), found {slot!r}")

    def _check_length(self, slot: int, length: int) -> int:
        have = self.length(slot)
        if not 0 <= length <= have:
            raise ValueError(f"expected 0 to {have} tokens, all that slot {slot} holds, found {length!r}")
        return length

    def _check(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Refuse a malformed step."""
        if len(set(slots)) != len(slots) or len(slots) != len(tokens) or not slots:
            raise ValueError(f"expected one token list for each of n different slots, found slots {slots!r}")
        for slot, row in zip(slots, tokens, strict=True):
            have = self.length(slot)
            if not row:
                raise ValueError(f"expected at least one token for slot {slot}, found none")
            if min(row) < 0 or max(row) >= self.vocab_size:
                raise ValueError(f"expected tokens in range({self.vocab_size}), found {row!r} in slot {slot}")
            if have + len(row) > self.window:
                raise IndexError(
                    f"expected at most {self.window} tokens in slot {slot}, found {have} + {len(row)}"
                )

    def _check_sampling(self, sampling: Sequence[Sampling], count: int) -> None:
        """Check that there is one setting per slot, and that biases are few enough and of existing tokens."""
        if len(sampling) != count:
            raise ValueError(f"expected {count} sampling parameters, one per slot, found {len(sampling)}")
        for how in sampling:
            if len(how.logit_bias) > MOST_BIASES:
                raise ValueError(f"expected at most {MOST_BIASES} biases, found {len(how.logit_bias)}")
            for token, _ in how.logit_bias:
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"expected biased tokens in range({self.vocab_size}), found {token!r}")


def rows_of(
    tokens: Sequence[Sequence[int]] | Tensor, given: Tensor | None
) -> tuple[list[list[int]], Tensor | None]:
    """Return the token lists of a step and the tensor of given tokens, whose slots have the list [0]."""
    if isinstance(tokens, Tensor):
        return [[0] for _ in range(len(tokens))], tokens
    first = [[0] for _ in range(0 if given is None else len(given))]
    return [*first, *(list(row) for row in tokens)], given
