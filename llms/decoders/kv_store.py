"""The KV storage of the decoders that keep one row per slot.

Rows are allocated ahead, written in place at each row's own position, and read as views. A row needs no
padding, and nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llms.decoders.base import SlotChecks


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """The sizes of the stored keys and values."""

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """The size of one token's keys and values over all layers, in bytes."""
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class PassLayout:
    """The rows and positions that one forward pass reads and writes.

    Attributes:
        start: First row of the contiguous range that is read.
        count: Number of rows n.
        total: Length of the longest row after the pass.
        first: Position of the first new token if there is one row.
        rows: int64 [t], the row of each of the t new tokens; None if there is one row.
        places: int64 [t], the position of each new token in its row.
        sources: Batch index and query index of each new token, int64 [t] each.
    """

    start: int
    count: int
    total: int
    first: int = 0
    rows: Tensor | None = None
    places: Tensor | None = None
    sources: tuple[Tensor, Tensor] | None = None


class SlotStore:
    """Keys and values [layers, rows, heads, capacity, dim], which grow by doubling.

    Unwritten places are zero. This matters because a masked value still enters the sum with weight 0, and
    0 x NaN is NaN. Zeroed pages of a CPU tensor take no memory before they are written.

    Args:
        shape: Sizes of keys and values.
        window: Maximum length of a row, in tokens.
    """

    def __init__(self, shape: KVShape, window: int) -> None:
        self.shape = shape
        self.window = window
        self.rows: dict[int, int] = {}
        self.lengths: dict[int, int] = {}
        self.tokens: dict[int, list[int]] = {}
        none = torch.zeros(shape.layers, 0, shape.heads, 0, 1, dtype=shape.dtype, device=shape.device)
        self.keys = none.expand(-1, -1, -1, -1, shape.key_dim)
        self.values = none.expand(-1, -1, -1, -1, shape.value_dim)

    def row(self, slot: int) -> int:
        """Return the row of a slot. A slot without one is given the lowest free row."""
        if slot not in self.rows:
            used = set(self.rows.values())
            self.rows[slot] = next(i for i in range(len(used) + 1) if i not in used)
            self.lengths[slot], self.tokens[slot] = 0, []
        return self.rows[slot]

    def reserve(self, rows: int, capacity: int) -> None:
        """Grow the storage to at least `rows` rows of `capacity` tokens."""
        have_rows, have = self.keys.shape[1], self.keys.shape[3]
        if rows <= have_rows and capacity <= have:
            return
        new_rows = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
        new = have if capacity <= have else min(max(capacity, 2 * have, 256), self.window)
        live = max(self.lengths.values(), default=0)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            grown = old.new_zeros(old.shape[0], new_rows, old.shape[2], new, old.shape[4])
            grown[:, :have_rows, :, :live] = old[:, :, :, :live]
            setattr(self, name, grown)

    def gather(self, slots: Sequence[int]) -> int:
        """Move the rows of these slots into one contiguous range, in any order, and return its first row.

        The range that already has most of them is chosen, so a batch that lost one member moves one row.
        """
        rows = [self.row(slot) for slot in slots]
        wanted, n = set(rows), len(rows)
        high = max(rows)
        start = max(
            range(max(high - n + 1, 0) + 1), key=lambda s: (sum(1 for row in wanted if s <= row < s + n), -s)
        )
        holes = [row for row in range(start, start + n) if row not in wanted]
        movers = [slot for slot in slots if not start <= self.rows[slot] < start + n]
        owner = {row: slot for slot, row in self.rows.items()}
        for slot, hole in zip(movers, holes, strict=True):
            self._swap(slot, owner.get(hole), hole)
        return start

    def _swap(self, slot: int, other: int | None, row: int) -> None:
        """Move a slot to `row`, and the slot that was there to the old row."""
        self.reserve(row + 1, 0)
        old, length = self.rows[slot], self.lengths[slot]
        if other is not None:
            length = max(length, self.lengths[other])
        for store in (self.keys, self.values):
            if other is None:
                store[:, row, :, :length] = store[:, old, :, :length]
            else:
                store[:, [row, old], :, :length] = store[:, [old, row], :, :length]
        self.rows[slot] = row
        if other is not None:
            self.rows[other] = old

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace a slot by a copy of the first `length` tokens of another one."""
        a, b = self.row(source), self.row(target)
        self.reserve(b + 1, length)
        for store in (self.keys, self.values):
            store[:, b, :, :length] = store[:, a, :, :length]
        self.lengths[target], self.tokens[target] = length, self.tokens[source][:length]

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        """Record tokens whose keys and values a pass has written to the slot."""
        self.lengths[slot] += len(tokens)
        self.tokens[slot] += tokens

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot that is in use."""
        self.lengths[slot] = length
        del self.tokens[slot][length:]

    def free(self, slot: int) -> None:
        """Drop a slot and zero what it wrote, since a NaN in it would reach the next reader of its row."""
        row = self.rows.pop(slot, None)
        length = self.lengths.pop(slot, 0)
        self.tokens.pop(slot, None)
        if row is not None and length:
            self.keys[:, row, :, :length] = 0
            self.values[:, row, :, :length] = 0
        if not self.rows:
            # Without any slot the memory is released.
            self.keys = self.keys[:, :0, :, :0].clone()
            self.values = self.values[:, :0, :, :0].clone()


class StoredSlots(SlotChecks):
    """The slots of a decoder that keeps its KV in a `SlotStore`: their length, and how they change."""

    _store: SlotStore

    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""
        self._check_slot(slot)
        return self._store.lengths.get(slot, 0)

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Replace the target by a copy of the source's first `length` tokens."""
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        if source == target:
            self.truncate(source, length)
            return
        self.free(target)
        if length:
            with torch.inference_mode():
                self._store.copy(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first `length` tokens of a slot."""
        if self._check_length(slot, length) == 0:
            self.free(slot)
        else:
            self._store.truncate(slot, length)

    @torch.inference_mode()
    def free(self, slot: int) -> None:
        """Empty a slot."""
        self._check_slot(slot)
        self._store.free(slot)
