"""The columns of a step (token, slot, position, attention group, sampling) and their upload to the GPU.

A step over ragged lists has one column for each token. Columns of one slot that fit into one block of
attention form a group.

    >>> [(c.token, c.pos, c.group) for c in lay_out([0, 1], [[7, 8], [9]], [5, 0], None, group_tokens=4)]
    [(7, 5, 2), (8, 6, 0), (9, 0, 1)]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llms.decoders.sampling import Sampling

RING = 8
"""Uploads in flight before the host waits until the oldest one has been read."""


@dataclass(slots=True)
class Column:
    """One token of a step."""

    token: int
    slot: int
    pos: int
    sampling: Sampling | None
    group: int  # number of columns of the attention group that starts here; 0 if none starts here


def lay_out(
    slots: Sequence[int],
    lists: Sequence[Sequence[int]],
    lengths: Sequence[int],
    sampling: Sequence[Sampling] | None,
    group_tokens: int,
    every: bool = False,
) -> list[Column]:
    """Return the columns of a ragged step, the slots one after the other.

    Args:
        slots: n slots.
        lists: n lists of tokens to append.
        lengths: Number of tokens that each slot holds, by slot number.
        sampling: n settings, for the last column of each slot.
        group_tokens: Most columns of a group.
        every: Whether to sample in all columns.
    """
    columns: list[Column] = []
    for index, (slot, tokens) in enumerate(zip(slots, lists, strict=True)):
        for at, token in enumerate(tokens):
            left = len(tokens) - at
            group = min(left, group_tokens) if at % group_tokens == 0 else 0
            how = sampling[index] if sampling is not None and (every or left == 1) else None
            columns.append(Column(token, slot, lengths[slot] + at, how, group))
    return columns


def pieces(counts: Sequence[int], columns: int) -> list[list[tuple[int, int, int]]]:
    """Return ragged lists as passes of at most `columns` tokens, each [(list, begin, end)], in order."""
    passes: list[list[tuple[int, int, int]]] = [[]]
    room = columns
    for index, count in enumerate(counts):
        begin = 0
        while begin < count:
            if room == 0:
                passes.append([])
                room = columns
            take = min(count - begin, room)
            passes[-1].append((index, begin, begin + take))
            begin += take
            room -= take
    return passes


def encode(columns: Sequence[Column], spare_slot: int, rows: NDArray[np.int32]) -> None:
    """Write int32 [fields, width] for `graphs.FIELDS`, floats as their bits.

    Unused columns belong to the spare slot, whose page table has only page 0.
    """
    rows.fill(0)
    rows[1] = spare_slot
    rows[:3, : len(columns)] = np.array([(c.token, c.slot, c.pos) for c in columns], np.int32).T
    starts = [(i, c.group) for i, c in enumerate(columns) if c.group]
    rows[3:5, : len(starts)] = np.array(starts, np.int32).T
    floats, unsigned = rows.view(np.float32), rows.view(np.uint32)
    for i, c in enumerate(columns):
        how = c.sampling
        if how is None:
            continue
        if how.temperature > 0:
            rows[5, i] = how.top_k
            floats[6:9, i] = how.temperature, how.top_p, how.min_p
            unsigned[9:11, i] = how.seed & (2**32 - 1), how.seed >> 32 & (2**32 - 1)
        if how.changes_logits:
            floats[11, i], rows[12, i] = how.repetition_penalty, len(how.logit_bias)


class Staging:
    """A ring of pinned buffers in front of the device's `meta`.

    Args:
        meta: int32 [fields, width] on the device.
    """

    def __init__(self, meta: Tensor) -> None:
        self._meta = meta
        self._pinned = [torch.empty(meta.shape, dtype=torch.int32, pin_memory=True) for _ in range(RING)]
        self._rows = [pinned.numpy() for pinned in self._pinned]
        self._read: list[torch.cuda.Event | None] = [None] * RING
        self._next = 0

    def upload(self, columns: Sequence[Column], spare_slot: int, given: Tensor | None = None) -> None:
        """Queue the upload of the columns on the current stream.

        Args:
            columns: The step's columns.
            spare_slot: Slot of unused columns.
            given: int64 [n] on the device, tokens that replace those of the columns.
        """
        event = self._read[self._next]
        if event is not None:
            event.synchronize()
        encode(columns, spare_slot, self._rows[self._next])
        self._meta.copy_(self._pinned[self._next], non_blocking=True)
        if given is not None:
            self._meta[0, : len(given)].copy_(given)

    def launched(self) -> None:
        """Record that the upload is in flight. Call it after the launch, which it would only delay."""
        event = self._read[self._next] or torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._read[self._next] = event
        self._next = (self._next + 1) % RING
