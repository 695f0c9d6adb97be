"""Exact nearest-neighbour search among unit vectors, in numpy.

An index holds row numbers and vectors. It is told what changed and can be deleted at any time, because the
manifest keeps the vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Cosines are rounded to this many decimals before they are compared: the same vector, stored twice, may
# differ in the last bits of a matrix product.
DECIMALS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The visible chunks that were added and removed since a generation.

    If `full` is set, `added` is every visible chunk and what the index held before must be dropped.
    `added` is int64 [n], `vectors` is float32 [n, dimension].
    """

    generation: int
    full: bool
    removed: Sequence[int]
    added: NDArray[np.int64]
    vectors: NDArray[np.float32]


class ExactIndex:
    """Compares every vector: 3 ms for 100,000 vectors of 384 dimensions on two cores."""

    def __init__(self) -> None:
        self.generation = -1
        self._lock = threading.Lock()
        self._size = 0
        self._rows = np.zeros(0, dtype=np.int64)
        self._matrix = np.zeros((0, 0), dtype=np.float32)
        self._place: dict[int, int] = {}

    def apply(self, changes: Changes) -> None:
        """Add and remove rows in place, at a cost that depends on the changes and not on the index."""
        with self._lock:
            if changes.full:
                self._size, self._place = 0, {}
            self._drop(changes.removed)
            self._append(changes.added, changes.vectors)
            self.generation = changes.generation

    def _drop(self, rows: Iterable[int]) -> None:
        for row in rows:
            place = self._place.pop(row, None)
            if place is None:
                continue
            self._size -= 1
            if place != self._size:  # the last row moves to the free place
                moved = int(self._rows[self._size])
                self._rows[place], self._matrix[place] = moved, self._matrix[self._size]
                self._place[moved] = place

    def _append(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        if not self._size:  # an empty index uses the arrays as they are, without copying all vectors
            self._rows, self._matrix, self._size = rows.copy(), vectors, len(rows)
            self._place = {row: place for place, row in enumerate(rows.tolist())}
            return
        fresh = [number for number, row in enumerate(rows) if int(row) not in self._place]
        if not fresh:
            return
        needed = self._size + len(fresh)
        if needed > len(self._rows) or self._matrix.shape[1] != vectors.shape[1]:
            capacity = max(needed, len(self._rows) + len(self._rows) // 2)
            matrix = np.zeros((capacity, vectors.shape[1]), dtype=np.float32)
            matrix[: self._size] = self._matrix[: self._size] if self._size else 0
            numbers = np.zeros(capacity, dtype=np.int64)
            numbers[: self._size] = self._rows[: self._size]
            self._matrix, self._rows = matrix, numbers
        self._matrix[self._size : needed] = vectors[fresh]
        self._rows[self._size : needed] = rows[fresh]
        self._place.update((int(rows[n]), self._size + i) for i, n in enumerate(fresh))
        self._size = needed

    def search(
        self, vector: NDArray[np.float32], k: int, among: Iterable[int] | None = None
    ) -> list[tuple[int, float]]:
        """Return (row, cosine) of the `k` rows nearest to a unit vector, float32 [dimension], best first.

        Returns more than `k` rows if several share the k-th place. `among` restricts the search to these
        rows.
        """
        with self._lock:
            if among is None:
                rows, matrix = self._rows[: self._size], self._matrix[: self._size]
            else:
                places = [self._place[row] for row in among if row in self._place]
                rows, matrix = self._rows[places], self._matrix[places]
            k = min(k, len(rows))
            if k < 1:
                return []
            scores = np.round(matrix @ vector, DECIMALS)
            floor = np.partition(scores, len(rows) - k)[len(rows) - k]
            best = np.flatnonzero(scores >= floor)
            order = best[np.lexsort((rows[best], -scores[best]))]
            return [(int(rows[place]), float(scores[place])) for place in order]

    def count(self) -> int:
        """Return the number of vectors."""
        return self._size

    def has(self, row: int) -> bool:
        """Return whether the index holds this row."""
        return row in self._place
