"""What changed since an index was written: rows added are compared exactly, rows removed left out.

Knows rows, vectors and the manifest's changes. With it a graph that lags behind still answers as the store is
now, so that a document costs the same to add whether the graph holds a thousand vectors or a million.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.index import ExactIndex
from chains.retrieval.manifest import Manifest

Pairs = list[tuple[int, float]]
_SPARE = 32


class Recent:
    """The changes after generation `since` of one manifest, followed as they come."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._added = ExactIndex()
        self._added.generation = since
        self._removed: set[int] = set()

    @property
    def generation(self) -> int:
        """The manifest's generation up to which changes are known."""
        return self._added.generation

    @property
    def size(self) -> int:
        """How many rows came or went."""
        return self._added.count() + len(self._removed)

    def follow(self, manifest: Manifest, most: int) -> bool:
        """Takes over the latest changes; False where they are more than `most` or not known any more."""
        if self._added.generation != manifest.generation:
            if manifest.lag(self._added.generation) > most:
                return False
            changes = manifest.changes(self._added.generation)
            if changes.full:
                return False
            self._removed.update(changes.removed)
            self._added.apply(changes)
        return self.size <= most

    def merged(self, vector: NDArray[np.float32], k: int, ask: Callable[[int], Pairs | None]) -> Pairs | None:
        """The `k` nearest rows as of now, where `ask(k)` tells them as of `since`; None where it fails."""
        kept: Pairs = []
        # A graph is asked for a few more than wanted; for all that might be gone only where those few are.
        for spare in sorted({min(len(self._removed), _SPARE), len(self._removed)}):
            before = ask(k + spare)
            if before is None:
                return None
            kept = [(row, score) for row, score in before if row not in self._removed]
            if len(kept) >= k:
                break
        return sorted(kept + self._added.search(vector, k), key=lambda pair: (-pair[1], pair[0]))[:k]
