"""A transformers `Cache` that reads and writes the KV store, for one forward pass.

This is a file of its own because decoders that do not run transformers' passes need not import it.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from llms.decoders.kv_store import PassLayout, SlotStore


class _CacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's window on the store."""

    is_compileable = False
    is_croppable = False

    def __init__(self, store: SlotStore, index: int, layout: PassLayout) -> None:
        super().__init__()
        self.store, self.index, self.layout = store, index, layout
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the store is allocated before the pass."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens [n, heads, k, dim] in place and return views [n, heads, total, dim]."""
        layout = self.layout
        keys, values = self.store.keys[self.index], self.store.values[self.index]
        if layout.rows is None:
            keys[layout.start, :, layout.first : layout.total] = key_states[0]
            values[layout.start, :, layout.first : layout.total] = value_states[0]
        else:
            assert layout.sources is not None
            batch, query = layout.sources
            keys[layout.rows, :, layout.places] = key_states[batch, :, query]
            values[layout.rows, :, layout.places] = value_states[batch, :, query]
        span = slice(layout.start, layout.start + layout.count)
        return keys[span, :, : layout.total], values[span, :, : layout.total]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (number of keys, their offset) for transformers' own mask."""
        return self.layout.total, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens before this pass (meaningful for one row only)."""
        return self.layout.first

    def get_max_length(self) -> int:
        """Return the window."""
        return self.store.window


class SlotCache(Cache):  # type: ignore[misc]
    """A transformers cache over the KV store, for one forward pass."""

    def __init__(self, store: SlotStore, layout: PassLayout) -> None:
        """Bind every layer to the layout."""
        super().__init__(layers=[_CacheLayer(store, i, layout) for i in range(store.shape.layers)])
