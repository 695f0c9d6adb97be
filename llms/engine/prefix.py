"""Which slot holds which tokens: hands slots out, and keeps finished ones as a prefix cache.

Knows a decoder's slots and token lists; refuses to know requests and text. A finished sequence's KV stays in
its slot until its place is needed: bounded in bytes and in number, least recently used out first. Only the
thread that leads the engine may call it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf

from llms.decoders.base import Decoder

MIN_SHARED = 16
"""Shorter common prefixes are not worth a copy: prefilling 16 tokens costs about one decode step."""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share (bisection over slice comparisons)."""
    low, high = 0, min(len(a), len(b))
    if high == 0 or a[0] != b[0]:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class SlotTable:
    """Busy and idle slots of one decoder.

    Args:
        decoder: Whose slots these are.
        max_bytes: Bound on the KV that idle slots keep, in bytes.
        max_idle: Bound on the number of idle slots.
    """

    def __init__(self, decoder: Decoder, *, max_bytes: int, max_idle: int) -> None:
        self._decoder = decoder
        self._max_bytes = max_bytes
        self._max_idle = max_idle
        self._tokens: dict[int, list[int]] = {}
        self._busy: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Number of slots that `acquire` can hand out (idle ones included)."""
        return self._decoder.max_slots - len(self._busy)

    @property
    def idle_bytes(self) -> int:
        """Size of the KV that idle slots keep, in bytes."""
        return sum(len(self._tokens[slot]) for slot in self._idle) * self._decoder.bytes_per_token

    @property
    def room(self) -> float:
        """How many tokens more the cache holds, what idle slots keep counted as free; inf without a bound."""
        room = getattr(self._decoder, "room", None)
        idle = sum(len(self._tokens[slot]) for slot in self._idle)
        return inf if room is None else room() + idle

    def best(self, prompt: Sequence[int]) -> tuple[int | None, int]:
        """Return (slot, length) of the longest prefix of `prompt` that any slot holds.

        At least one token of the prompt is left to run, for its logits.
        """
        found, length = None, 0
        for slot, tokens in self._tokens.items():
            shared = min(common_prefix(tokens, prompt), len(prompt) - 1)
            if shared > length or (shared == length and shared and slot in self._idle):
                found, length = slot, shared
        return (found, length) if length >= MIN_SHARED else (None, 0)

    def acquire(self, prompt: Sequence[int]) -> tuple[int, int]:
        """Take a slot for a prompt and reuse what is cached of it.

        Returns:
            (slot, number of tokens already in it). The slot is busy until `release`.

        Raises:
            LookupError: Every slot is busy.
        """
        source, length = self.best(prompt)
        if source is not None and source in self._idle and length == len(self._tokens[source]):
            # The new prompt continues that sequence: nothing is lost by working in place.
            target = source
        else:
            target = self._empty_slot(source)
        if source is not None and target == source:
            self._decoder.truncate(target, length)
        elif source is not None:
            self._copy(source, target, length)
            if source in self._idle:
                self._idle.move_to_end(source)
        self._idle.pop(target, None)
        self._busy.add(target)
        self._tokens[target] = list(prompt[:length])
        return target, length

    def branch(self, source: int, length: int) -> int:
        """Take a slot that starts as a copy of a busy slot's first `length` tokens."""
        target = self._empty_slot(None)
        self._copy(source, target, length)
        self._idle.pop(target, None)
        self._busy.add(target)
        self._tokens[target] = self._tokens[source][:length]
        return target

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that tokens were appended to a busy slot's cache."""
        self._tokens[slot].extend(tokens)

    def rewind(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a busy slot."""
        self._decoder.truncate(slot, length)
        del self._tokens[slot][length:]

    def release(self, slot: int, *, keep: bool = True) -> None:
        """Give a slot back; with `keep` its KV stays as cache while the bounds allow.

        Tokens of the slot that were never noted here (launched ahead, and dropped) are no part of it.
        """
        self._busy.discard(slot)
        if self._decoder.length(slot) > len(self._tokens[slot]):
            self._decoder.truncate(slot, len(self._tokens[slot]))
        if keep and len(self._tokens[slot]) >= MIN_SHARED and not self._redundant(slot):
            self._idle[slot] = None
            while self._idle and (self.idle_bytes > self._max_bytes or len(self._idle) > self._max_idle):
                self._drop(next(iter(self._idle)))
        else:
            self._drop(slot)

    def evict(self) -> bool:
        """Drop the idle slot that was used least recently; False where none is left."""
        slot = next(iter(self._idle), None)
        if slot is not None:
            self._drop(slot)
        return slot is not None

    def reserve(self, tokens: int) -> None:
        """Drop idle slots, least recently used first, until the cache has room for so many tokens."""
        room = getattr(self._decoder, "room", None)
        while room is not None and room() < tokens and self.evict():
            pass

    def reset(self) -> None:
        """Empty every slot, whatever is noted of it: after an error one does not know what it holds."""
        for slot in range(self._decoder.max_slots):
            self._decoder.free(slot)
        self._tokens.clear()
        self._busy.clear()
        self._idle.clear()

    def clear(self) -> None:
        """Drop every idle slot."""
        for slot in list(self._idle):
            self._drop(slot)

    def _redundant(self, slot: int) -> bool:
        """Tell whether an idle slot already holds all of this one; if so, it counts as used just now."""
        mine = self._tokens[slot]
        for other in self._idle:
            if len(self._tokens[other]) >= len(mine) and common_prefix(self._tokens[other], mine) == len(
                mine
            ):
                self._idle.move_to_end(other)
                return True
        return False

    def _copy(self, source: int, target: int, length: int) -> None:
        """Fork a slot; what a failed copy leaves behind is no beginning of anything."""
        try:
            self._decoder.fork(source, target, length)
        except Exception:
            self._decoder.free(target)
            raise

    def _drop(self, slot: int) -> None:
        self._idle.pop(slot, None)
        self._tokens.pop(slot, None)
        self._decoder.free(slot)

    def _empty_slot(self, source: int | None) -> int:
        """Return a slot that is free, else the least recently used idle one (the source only as the last)."""
        for slot in range(self._decoder.max_slots):
            if slot not in self._tokens:
                return slot
        for slot in self._idle:
            if slot != source:
                self._drop(slot)
                return slot
        if source is not None and source in self._idle:
            return source
        raise LookupError(f"Expected a free slot, found all {self._decoder.max_slots} busy.")
