"""Attention of one pass of the lean decoder over the slots' cache.

Knows the store of `llms.decoders.reference`, a plan and a mask; refuses to know weights and models. All views
that a pass needs are made once, not once a layer.

PyTorch's CPU kernel copies keys and values once a query head where heads share them (512 tokens in bf16,
9 heads on 3: 500 us). Queries that share keys are laid side by side as rows of one head instead (72 us).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llms.decoders.reference import Plan, SlotStore


class Attention:
    """Writes a layer's new keys and values and attends over all of them.

    Args:
        store: The slots' keys and values; room for the plan is reserved.
        plan: Where this pass reads and writes.
        mask: bool [n, 1, k, total], what each query sees. None: one row whose first token comes first, where
            each query sees what is before it; or one query that sees everything.
        heads: Number of query heads, a multiple of the store's.
    """

    def __init__(self, store: SlotStore, plan: Plan, mask: Tensor | None, *, heads: int) -> None:
        self._plan = plan
        self._shared = heads // store.shape.heads
        self._scale = store.shape.key_dim**-0.5
        span = slice(plan.start, plan.start + plan.count)
        self._keys = store.keys[:, span, :, : plan.total].unbind(0)
        self._values = store.values[:, span, :, : plan.total].unbind(0)
        if plan.rows is None:
            new = slice(plan.first, plan.total)
            self._new_keys = store.keys[:, plan.start, :, new].transpose(1, 2).unbind(0)
            self._new_values = store.values[:, plan.start, :, new].transpose(1, 2).unbind(0)
        else:
            self._all_keys, self._all_values = store.keys.unbind(0), store.values.unbind(0)
        self._mask = None if mask is None else self._rows(mask, store.shape.dtype)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend [n, k, heads, dim] over the cache and the new keys and values [n, k, kv heads, dim].

        Returns:
            [n x k, heads x dim].
        """
        self._write(layer, keys, values)
        n, k, _, dim = queries.shape
        keys, values = self._keys[layer], self._values[layer]
        if k == 1:
            rows = queries.view(n, -1, self._shared, dim)
            out = F.scaled_dot_product_attention(rows, keys, values, self._mask, scale=self._scale)
            return out.reshape(n, -1)
        if self._mask is None:
            # The kernel skips what lies behind the diagonal, which is worth the copies.
            keys, values = (
                t[:, :, None].expand(-1, -1, self._shared, -1, -1).flatten(1, 2) for t in (keys, values)
            )
            out = F.scaled_dot_product_attention(
                queries.transpose(1, 2), keys, values, is_causal=True, scale=self._scale
            )
            return out.transpose(1, 2).reshape(n * k, -1)
        rows = queries.view(n, k, -1, self._shared, dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out = F.scaled_dot_product_attention(rows, keys, values, self._mask, scale=self._scale)
        return out.view(n, -1, self._shared, k, dim).permute(0, 3, 1, 2, 4).reshape(n * k, -1)

    def _write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self._plan.rows is None:
            self._new_keys[layer].copy_(keys[0])
            self._new_values[layer].copy_(values[0])
            return
        assert self._plan.sources is not None
        self._all_keys[layer][self._plan.rows, :, self._plan.places] = keys[self._plan.sources]
        self._all_values[layer][self._plan.rows, :, self._plan.places] = values[self._plan.sources]

    def _rows(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores [n, 1, shared x k, total]: converted once, not once a layer."""
        added = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
        return added if mask.shape[2] == 1 else added.repeat(1, 1, self._shared, 1)
