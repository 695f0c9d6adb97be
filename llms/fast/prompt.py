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

CHUNK = 2048
"""Tokens a pass: 4,096 would save 6 ms of a 4,096-token prompt and take 250 MB more."""


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

    def _attention(self, index: int, layer: Layer, h: Tensor, table: Tensor, first: int) -> Tensor:
        s, n = self._weights.shape, len(h)
        x = rms_norm(h, (s.width,), layer.attention_gain, s.eps)
        qkv = torch.mm(x, self.dequantize(layer.qkv).t())
        self._machine.rotate_store((n, s.heads + 2 * s.kv_heads), Rotate(
            qkv.data_ptr(), self._pool[index].data_ptr(), table.data_ptr(), self._weights.rope.data_ptr(),
            first, s.heads,
        ))  # fmt: skip
        qkv = qkv.view(n, s.heads + 2 * s.kv_heads, s.head_dim).transpose(0, 1)[None]
        q, k, v = torch.split(qkv, [s.heads, s.kv_heads, s.kv_heads], 1)
        if first:
            pages = self._pool[index, table[: -(-(first + n) // PAGE)].long()]
            k, v = pages.permute(1, 2, 0, 3, 4).reshape(2, 1, s.kv_heads, -1, s.head_dim)[..., : first + n, :]
        out = self._dot_product(q, k, v, first)
        x = out[0].transpose(0, 1).reshape(n, -1)
        return torch.mm(x, self.dequantize(layer.out).t())

    def _dot_product(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        n, total, sliding = q.shape[2], k.shape[2], self._weights.shape.sliding
        gqa = q.shape[1] != k.shape[1]
        if sliding and total > sliding:
            place = torch.arange(first, total, device=q.device)[:, None]
            key = torch.arange(total, device=q.device)[None]
            seen = (key <= place) & (key > place - sliding)
            return scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=gqa)
        if not first:
            return scaled_dot_product_attention(q, k, v, is_causal=n > 1, enable_gqa=gqa)
        from torch.nn.attention.bias import causal_lower_right

        if gqa:  # the lower-right mask takes equal numbers of heads only
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(n, total))

    def _mlp(self, layer: Layer, h: Tensor) -> Tensor:
        s, n = self._weights.shape, len(h)
        x = rms_norm(h, (s.width,), layer.mlp_gain, s.eps)
        joined = torch.mm(x, self.dequantize(layer.gate_up).t())
        act = torch.empty(n, s.inner, dtype=h.dtype, device=h.device)
        grid = (-(-s.inner // (8 * 128)), n)
        self._machine.silu_product(grid, Product(joined.data_ptr(), act.data_ptr(), s.inner))
        del joined
        return torch.mm(act, self.dequantize(layer.down).t())
