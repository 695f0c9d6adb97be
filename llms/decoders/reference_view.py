"""A transformers `Cache` that reads and writes pages of the KV store, for one forward pass.

This is a file of its own because decoders that do not run transformers' passes need not import it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from llms.decoders.reference_plan import PAGE


class PassLayout:
    """The pages that one forward pass of n rows reads and writes.

    Args:
        pages: The pages of each row (`SlotStore.tensors`), with room for its new tokens.
        before: The number of tokens of each row before the pass.
        counts: The number of new tokens of each row.

    Attributes:
        total: Length of the longest row after the pass.
    """

    def __init__(
        self, pages: Sequence[Sequence[Tensor]], before: Sequence[int], counts: Sequence[int]
    ) -> None:
        self.before, self.counts = before, counts
        self.total = max(first + count for first, count in zip(before, counts, strict=True))
        # [row][page][2 x layer + (0 for keys, 1 for values)]: [heads, PAGE, dim]
        self._pages = [[page.flatten(0, 1).unbind() for page in row] for row in pages]

    def extend(self, index: int, new: Tensor) -> Tensor:
        """Write the new keys or values of one layer, and return those of all tokens.

        Args:
            index: 2 x layer for keys, 2 x layer + 1 for values.
            new: [n, heads, k, dim]. The new tokens of each row are its last ones.

        Returns:
            [n, heads, total, dim]. Places after the end of a row are zero, because a masked value still
            enters the sum with weight 0, and 0 x NaN is NaN.
        """
        parts: list[Tensor] = []
        for row, pages in enumerate(self._pages):
            first, count = self.before[row], self.counts[row]
            fresh = new[row, :, new.shape[2] - count :]
            done = 0
            while done < count:
                at, used = divmod(first + done, PAGE)
                fits = min(PAGE - used, count - done)
                pages[at][index][:, used : used + fits] = fresh[:, done : done + fits]
                done += fits
            whole, rest = divmod(first, PAGE)
            parts += [page[index] for page in pages[:whole]]
            if rest:
                parts.append(pages[whole][index][:, :rest])
            parts.append(fresh)
            if short := self.total - first - count:
                parts.append(new.new_zeros(1, 1, 1).expand(new.shape[1], short, new.shape[3]))
        if len(parts) == 1:
            return new
        return torch.cat(parts, 1).view(new.shape[1], len(new), self.total, -1).transpose(0, 1)


class _CacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's window on the pages."""

    is_compileable = False
    is_croppable = False

    def __init__(self, index: int, layout: PassLayout) -> None:
        super().__init__()
        self.index, self.layout = index, layout
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the pages are allocated before the pass."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens [n, heads, k, dim], and return all of them, [n, heads, total, dim]."""
        return (
            self.layout.extend(2 * self.index, key_states),
            self.layout.extend(2 * self.index + 1, value_states),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (number of keys, their offset) for transformers' own mask."""
        return self.layout.total, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens before this pass (meaningful for one row only)."""
        return self.layout.before[0]

    def get_max_length(self) -> int:
        """Return the length of the longest row."""
        return self.layout.total


class SlotCache(Cache):  # type: ignore[misc]
    """A transformers cache over pages of the KV store, for one forward pass."""

    def __init__(self, layers: int, layout: PassLayout) -> None:
        """Bind every layer to the layout."""
        super().__init__(layers=[_CacheLayer(i, layout) for i in range(layers)])
