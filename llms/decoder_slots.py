"""What every decoder refuses, said once: slots, lengths and tokens outside what the contract allows.

Knows numbers only; refuses to know tensors and caches. A decoder inherits it and supplies `max_slots`,
`window`, `vocab_size` and `length`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence


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
