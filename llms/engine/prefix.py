"""KV-cache slots and prefix reuse.

`SlotTable` assigns a slot to each running sequence and keeps the KV of finished ones. It evicts the least
recently used when `max_bytes` or `max_idle` is exceeded. It is not thread-safe: only the engine's thread may
call it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf

import torch

from llms.decoders.base import Decoder

MIN_SHARED = 16
"""Minimum length of a prefix that is reused. Prefilling 16 tokens costs about as much as one decode step, so
a shorter one is not worth a copy."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error).lower()
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of leading tokens that two sequences share (by bisection over slices)."""
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
    """The slots of one decoder: busy ones, and idle ones that serve as a prefix cache.

    Args:
        decoder: The decoder.
        max_bytes: Maximum size of the KV in idle slots, in bytes.
        max_idle: Maximum number of idle slots.

    Example:
        slot, cached = table.acquire(prompt)  # the decoder already holds `cached` tokens of the prompt
        table.extend(slot, prompt[cached:])  # after the decoder has run them
        table.release(slot)  # keep its KV for the next prompt that begins alike
    """

    def __init__(self, decoder: Decoder, *, max_bytes: int, max_idle: int) -> None:
        self._decoder = decoder
        self._max_bytes = max_bytes
        self._max_idle = max_idle
        self._tokens: dict[int, list[int]] = {}
        self._busy: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._unknown: set[int] = set()

    @property
    def available(self) -> int:
        """The number of slots that `acquire` can assign, including idle ones."""
        return self._decoder.max_slots - len(self._busy)

    @property
    def idle_bytes(self) -> int:
        """The size of the KV in idle slots, in bytes."""
        return sum(len(self._tokens[slot]) for slot in self._idle) * self._decoder.bytes_per_token

    @property
    def room(self) -> float:
        """The number of tokens that still fit, counting idle slots as free. inf if there is no limit."""
        room = getattr(self._decoder, "room", None)
        idle = sum(len(self._tokens[slot]) for slot in self._idle)
        return inf if room is None else room() + idle

    def best(self, prompt: Sequence[int]) -> tuple[int | None, int]:
        """Return the slot with the longest cached prefix of `prompt`, and the length of that prefix.

        The prefix is at least one token shorter than the prompt, because the last token has to run to give
        logits.
        """
        found, length = None, 0
        for slot, tokens in self._tokens.items():
            shared = min(common_prefix(tokens, prompt), len(prompt) - 1)
            if shared > length or (shared == length and shared and slot in self._idle):
                found, length = slot, shared
        return (found, length) if length >= MIN_SHARED else (None, 0)

    def acquire(self, prompt: Sequence[int]) -> tuple[int, int]:
        """Assign a slot to a prompt and reuse the cached prefix of it.

        Returns:
            The slot, which is busy until `release`, and the number of prompt tokens that it already holds.

        Raises:
            LookupError: All slots are busy.
        """
        source, length = self.best(prompt)
        if source is not None and source in self._idle and length == len(self._tokens[source]):
            # The new prompt continues the whole cached sequence, so it can take over its slot.
            target = source
        else:
            target = self._empty_slot(source)
        if source is not None and target == source:
            try:
                self._decoder.truncate(target, length)
            except BaseException:
                self._drop(target)
                raise
        elif source is not None:
            self._copy(source, target, length)
            if source in self._idle:
                self._idle.move_to_end(source)
        self._idle.pop(target, None)
        self._busy.add(target)
        self._tokens[target] = list(prompt[:length])
        return target, length

    def branch(self, source: int, length: int) -> int:
        """Assign a slot that starts with a copy of the first `length` tokens of a busy slot."""
        target = self._empty_slot(None)
        self._copy(source, target, length)
        self._idle.pop(target, None)
        self._busy.add(target)
        self._tokens[target] = self._tokens[source][:length]
        return target

    def length(self, slot: int) -> int:
        """Return the number of recorded tokens of a busy slot."""
        return len(self._tokens[slot])

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Record tokens that the decoder has appended to a busy slot."""
        self._tokens[slot].extend(tokens)

    def rewind(self, slot: int, length: int) -> None:
        """Truncate a busy slot to its first `length` tokens."""
        self._decoder.truncate(slot, length)
        del self._tokens[slot][length:]

    def release(self, slot: int, *, keep: bool = True, length: int | None = None) -> None:
        """Release a slot. With `keep`, its KV stays cached as long as the limits allow.

        Tokens that the decoder holds but that were never recorded here are cut off: they were launched ahead
        and then discarded.

        Args:
            slot: A busy slot.
            keep: Whether to keep its KV.
            length: Number of tokens to keep; None for all.
        """
        self._busy.discard(slot)
        try:
            if keep and length is not None:
                del self._tokens[slot][length:]
            keep = keep and len(self._tokens[slot]) >= MIN_SHARED and not self._redundant(slot)
            if keep and self._decoder.length(slot) > len(self._tokens[slot]):
                self._decoder.truncate(slot, len(self._tokens[slot]))
        except Exception:
            keep = False  # The slot is emptied, which is always right.
        if not keep:
            self._drop(slot)
            return
        self._idle[slot] = None
        self._shrink()

    def limit(self, max_bytes: int) -> None:
        """Set the maximum size of the KV in idle slots, in bytes."""
        if max_bytes != self._max_bytes:
            self._max_bytes = max_bytes
            self._shrink()

    def _shrink(self) -> None:
        """Drop idle slots, least recently used first, until the limits hold."""
        while self._idle and (self.idle_bytes > self._max_bytes or len(self._idle) > self._max_idle):
            self._drop(next(iter(self._idle)))

    def evict(self) -> bool:
        """Drop the least recently used idle slot. Return False if there is none."""
        slot = next(iter(self._idle), None)
        if slot is not None:
            self._drop(slot)
        return slot is not None

    def reserve(self, tokens: int) -> None:
        """Drop idle slots, least recently used first, until `tokens` tokens fit."""
        room = getattr(self._decoder, "room", None)
        while room is not None and room() < tokens and self.evict():
            pass

    def repair(self) -> list[int]:
        """Make the decoder hold what is recorded here, after one of its calls has failed half-way.

        No step may be in flight. What the decoder holds beyond the record is cut off, and a slot that lost
        tokens is emptied and released.

        Returns:
            The busy slots that were released.
        """
        lost: list[int] = []
        for slot in range(self._decoder.max_slots):
            recorded = len(self._tokens.get(slot, ()))
            try:
                held = self._decoder.length(slot)
                if held > recorded:
                    self._decoder.truncate(slot, recorded)
                if held >= recorded and self._decoder.length(slot) == recorded:
                    continue
            except Exception:  # The slot is emptied, which is always right.
                recorded = -1
            self._drop(slot)
            if slot in self._busy:
                self._busy.discard(slot)
                lost.append(slot)
        return lost

    def reset(self) -> None:
        """Empty all slots, if it is not known what they hold."""
        self._busy.clear()
        for slot in range(self._decoder.max_slots):
            self._drop(slot)

    def clear(self) -> None:
        """Drop every idle slot."""
        for slot in list(self._idle):
            self._drop(slot)

    def _redundant(self, slot: int) -> bool:
        """Return whether an idle slot already holds all tokens of this one, and mark it as recently used."""
        mine = self._tokens[slot]
        for other in self._idle:
            if len(self._tokens[other]) >= len(mine) and common_prefix(self._tokens[other], mine) == len(
                mine
            ):
                self._idle.move_to_end(other)
                return True
        return False

    def _copy(self, source: int, target: int, length: int) -> None:
        """Copy the beginning of a slot. A copy that fails is freed."""
        try:
            self._decoder.fork(source, target, length)
        except BaseException:
            self._drop(target)
            raise

    def _drop(self, slot: int) -> None:
        """Empty a slot. One that cannot be emptied is not used until that succeeds."""
        self._idle.pop(slot, None)
        self._tokens.pop(slot, None)
        try:
            self._decoder.free(slot)
            self._unknown.discard(slot)
        except Exception:
            self._unknown.add(slot)

    def _empty_slot(self, source: int | None) -> int:
        """Return a free slot, or the least recently used idle one, the source only if no other is left."""
        for slot in list(self._unknown):
            self._drop(slot)
        for slot in range(self._decoder.max_slots):
            if slot not in self._tokens and slot not in self._unknown:
                return slot
        for slot in list(self._idle):
            if slot != source:
                self._drop(slot)
                if slot not in self._unknown:
                    return slot
        if source is not None and source in self._idle:
            return source
        for slot in list(self._unknown):
            self._drop(slot)
            if slot not in self._unknown:
                return slot
        raise LookupError(f"expected a free slot, found all {self._decoder.max_slots} busy")
