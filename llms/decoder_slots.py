"""What every decoder refuses, said once: slots, lengths and tokens outside what the contract allows.

Knows numbers; refuses to know what tensors hold, and caches. A decoder inherits it and supplies `max_slots`,
`window`, `vocab_size` and `length`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from llms.engine.sampling import MOST_BIASES, Sampling


class SlotChecks:
    """The checks of `llms.decoder.Decoder`'s contract, made before anything changes."""

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
