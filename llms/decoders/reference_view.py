"""What transformers sees of the reference decoder's KV storage: a `Cache` for one forward pass.

Knows transformers' cache interface and `llms.decoders.reference`; refuses to know models. It is a file of its
own, as decoders that do not run transformers' passes need not import it.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from llms.decoders.reference import Plan, SlotStore


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's window on the store."""

    is_compileable = False
    is_croppable = False

    def __init__(self, store: SlotStore, index: int, plan: Plan) -> None:
        super().__init__()
        self.store, self.index, self.plan = store, index, plan
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the store is allocated before the pass."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens [n, heads, k, dim] in place and return views [n, heads, total, dim]."""
        plan = self.plan
        keys, values = self.store.keys[self.index], self.store.values[self.index]
        if plan.rows is None:
            keys[plan.start, :, plan.first : plan.total] = key_states[0]
            values[plan.start, :, plan.first : plan.total] = value_states[0]
        else:
            assert plan.sources is not None
            batch, query = plan.sources
            keys[plan.rows, :, plan.places] = key_states[batch, :, query]
            values[plan.rows, :, plan.places] = value_states[batch, :, query]
        span = slice(plan.start, plan.start + plan.count)
        return keys[span, :, : plan.total], values[span, :, : plan.total]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (number of keys, their offset) for transformers' own mask."""
        return self.plan.total, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens before this pass (meaningful for one row only)."""
        return self.plan.first

    def get_max_length(self) -> int:
        """Return the window."""
        return self.store.window


class SlotCache(Cache):  # type: ignore[misc]
    """What one forward pass of a transformers model sees of the store."""

    def __init__(self, store: SlotStore, plan: Plan) -> None:
        """Bind every layer to the plan."""
        super().__init__(layers=[_Layer(store, i, plan) for i in range(store.shape.layers)])
