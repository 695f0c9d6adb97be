"""Prefill: a chunk of one slot's prompt through all layers, with cuBLAS over dequantized weights.

Knows matrices and the pages of one slot. Refuses to know graphs, sampling and scheduling. One scratch matrix
holds each product's weights as bf16 in turn, so a chunk costs one pass over the codes; what a chunk computes
grows with its tokens, so chunks are as long as the scratch memory allows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from llms.fast.layout import Packed
from llms.fast.machine import PAGE, Machine, Product, Rotate, Unpack
from llms.fast.weights import Layer, Weights

CHUNK = 4096
"""Most tokens a pass."""
SCRATCH = 236 * 2**20
"""Bytes for the widest activations of a pass; models wider than Mistral-7B get shorter chunks."""


class Prefill:
    """Run prompt chunks.

    Args:
        machine: Compiled kernels.
        weights: Packed weights.
        pool: bf16 [layers, pages, 2, kv_heads, PAGE, head_dim], the KV cache.
    """

    def __init__(self, machine: Machine, weights: Weights, pool: Tensor) -> None:
        self._machine, self._weights, self._pool = machine, weights, pool
        layer = weights.layers[0]
        largest = max(p.rows * p.width for p in (layer.qkv, layer.out, layer.gate_up, layer.down))
        self._scratch = torch.empty(largest, dtype=torch.bfloat16, device=machine.device)
        s = weights.shape
        self._widest = max(2 * s.inner, (s.heads + 2 * s.kv_heads) * s.head_dim)
        self.chunk = min(CHUNK, max(256, SCRATCH // (2 * self._widest)))
        self._wide = torch.empty(self.chunk * self._widest, dtype=torch.bfloat16, device=machine.device)

    def run(self, tokens: Tensor, table: Tensor, first: int) -> Tensor:
        """Append one chunk to a slot's pages.

        Args:
            tokens: int64 [n] on the device.
            table: int32 [pages], the slot's pages.
            first: Position of the first token.

        Returns:
            bf16 [n, width], the residual stream after the last layer.
        """
        h = self._weights.embedding[tokens]
        for index, layer in enumerate(self._weights.layers):
            h = h + self._attention(index, layer, h, table, first)
            h += self._mlp(layer, h)
        return h

    def logits(self, h: Tensor) -> Tensor:
        """Return fp32 [n, vocabulary] of rows [n, width] of the residual stream."""
        w = self._weights
        return torch.mm(rms_norm(h, (w.shape.width,), w.gain, w.shape.eps), w.head.t()).float()

    def dequantize(self, p: Packed) -> Tensor:
        """Return the joined matrix as bf16 [rows, width], in the scratch memory."""
        out = self._scratch[: p.rows * p.width].view(p.rows, p.width)
        tiles, units = p.records.shape[:2]
        w = self._weights
        self._machine.unpack((-(-tiles * units // 8),), Unpack(
            p.records.data_ptr(), p.tiles.data_ptr(), p.absmax2.data_ptr(), w.code2.data_ptr(),
            w.codes.data_ptr(), out.data_ptr(), tiles, units, p.width // 64, p.width,
        ))  # fmt: skip
        return out

    def _product(self, x: Tensor, p: Packed) -> Tensor:
        """Return x [n, width] times a matrix, [n, rows], in the wide scratch memory."""
        out = self._wide[: len(x) * p.rows].view(len(x), p.rows)
        return torch.mm(x, self.dequantize(p).t(), out=out)

    def _attention(self, index: int, layer: Layer, h: Tensor, table: Tensor, first: int) -> Tensor:
        s, n = self._weights.shape, len(h)
        x = rms_norm(h, (s.width,), layer.attention_gain, s.eps)
        qkv = self._product(x, layer.qkv)
        self._machine.rotate_store((n,), Rotate(
            qkv.data_ptr(), self._pool[index].data_ptr(), table.data_ptr(), self._weights.rope.data_ptr(),
            first, s.heads,
        ))  # fmt: skip
        # KV heads are the batch: their query heads see one expanded key, and nothing is copied.
        qkv = qkv.view(n, s.heads + 2 * s.kv_heads, s.head_dim).transpose(0, 1)
        q, k, v = torch.split(qkv, [s.heads, s.kv_heads, s.kv_heads])
        if first:
            pages = self._pool[index, table[: -(-(first + n) // PAGE)].long()]
            k, v = pages.permute(1, 2, 0, 3, 4).reshape(2, s.kv_heads, -1, s.head_dim)[:, :, : first + n]
        group = s.heads // s.kv_heads
        k, v = (t[:, None].expand(-1, group, -1, -1) for t in (k, v))
        out = self._dot_product(q.reshape(s.kv_heads, group, n, s.head_dim), k, v, first)
        x = out.permute(2, 0, 1, 3).reshape(n, -1)
        return torch.mm(x, self.dequantize(layer.out).t())

    def _dot_product(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        n, total, sliding = q.shape[2], k.shape[2], self._weights.shape.sliding
        if sliding and total > sliding:
            place = torch.arange(first, total, device=q.device)[:, None]
            key = torch.arange(total, device=q.device)[None]
            seen = (key <= place) & (key > place - sliding)
            return scaled_dot_product_attention(q, k, v, attn_mask=seen)
        if not first:
            return scaled_dot_product_attention(q, k, v, is_causal=n > 1)
        from torch.nn.attention.bias import causal_lower_right

        return scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(n, total))

    def _mlp(self, layer: Layer, h: Tensor) -> Tensor:
        s, n = self._weights.shape, len(h)
        x = rms_norm(h, (s.width,), layer.mlp_gain, s.eps)
        joined = self._product(x, layer.gate_up)
        grid = (-(-s.inner // (8 * 128)), n)
        self._machine.silu_product(grid, Product(joined.data_ptr(), s.inner))
        return torch.mm(joined[:, : s.inner], self.dequantize(layer.down).t())
