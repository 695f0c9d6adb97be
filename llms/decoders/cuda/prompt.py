"""Prefill: runs a chunk of one slot's prompt through all layers, with cuBLAS over dequantized weights.

One scratch matrix holds a slice of each product's weights as bf16 in turn. A chunk costs one pass over the
codes, so chunks are long. A slice of 2,048 to 7,168 rows is enough for cuBLAS and saves most of the scratch
memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llms.decoders.cuda import prefill_chunk, tile_slices
from llms.decoders.cuda.layout import Packed
from llms.decoders.cuda.machine import PAGE, AddNorm, Machine, Product, Rotate, Unpack
from llms.decoders.cuda.weights import CudaWeights, Layer


class Prefill:
    """Runs prompt chunks through all layers.

    Args:
        machine: Compiled kernels.
        weights: Packed weights.
        pool: bf16 [layers, pages, 2, kv_heads, PAGE, head_dim], the KV cache.
    """

    def __init__(self, machine: Machine, weights: CudaWeights, pool: Tensor) -> None:
        self._machine, self._weights, self._pool = machine, weights, pool
        s, device = weights.shape, machine.device
        self._qkv_rows = (s.heads + 2 * s.kv_heads) * s.head_dim
        self.chunk = prefill_chunk(inner=s.inner, qkv_rows=self._qkv_rows)
        layer = weights.layers[0]
        parts = [packed_slices(p)[0][1] * 16 * p.width for p in (layer.out, layer.gate_up, layer.down)]
        self._scratch = torch.empty(
            max(*parts, layer.qkv.rows * layer.qkv.width), dtype=torch.bfloat16, device=device
        )
        widest = max(packed_slices(layer.gate_up)[0][1] * 16, self._qkv_rows)
        self._wide = torch.empty(self.chunk * widest, dtype=torch.bfloat16, device=device)
        # The residual stream and its normalized copy. They are allocated here and not with each prompt, so
        # that the memory of a process depends less on the longest prompt that it has read.
        self._residual, self._normed = (
            torch.empty(self.chunk, s.width, dtype=torch.bfloat16, device=device) for _ in range(2)
        )
        # The hidden activations, or the result of attention.
        self._hidden = torch.empty(
            self.chunk * max(s.inner, s.heads * s.head_dim), dtype=torch.bfloat16, device=device
        )

    def run(self, tokens: Tensor, table: Tensor, first: int) -> Tensor:
        """Append one chunk to a slot's pages.

        Args:
            tokens: int64 [n] on the device.
            table: int32 [pages], the slot's pages.
            first: Position of the first token.

        Returns:
            bf16 [n, width], the residual stream after the last layer. The next call overwrites it.
        """
        w, n = self._weights, len(tokens)
        h, x = self._residual[:n], self._normed[:n]
        torch.index_select(w.embedding, 0, tokens, out=h)
        y: Tensor | None = None
        for index, layer in enumerate(w.layers):
            self._norm(h, y, layer.attention_gain, x)
            y = self._attention(index, layer, x, table, first)
            self._norm(h, y, layer.mlp_gain, x)
            y = self._mlp(layer, x)
        return h if y is None else h.add_(y)

    def logits(self, h: Tensor) -> Tensor:
        """Return fp32 [n, vocabulary] of rows [n, width] of the residual stream."""
        w, x = self._weights, torch.empty_like(h)
        self._norm(h, None, w.gain, x)
        return torch.mm(x, w.head.t()).float()

    def dequantize(self, p: Packed, first: int = 0, count: int | None = None, inner: int = 0) -> Tensor:
        """Return tiles of a joined matrix as bf16 rows [16 * tiles, width], in the scratch memory.

        Args:
            p: The matrix.
            first: First tile.
            count: Number of tiles; by default all.
            inner: Rows of gate if gate and up are joined; its rows come first, then as many of up.
        """
        tiles, units, size = p.records.shape
        count = tiles if count is None else count
        out = self._scratch[: count * 16 * p.width].view(count * 16, p.width)
        low = first * (8 if inner else 16)
        high = inner + low - 8 * count if inner else low
        w = self._weights
        self._machine.unpack((-(-count * units // 8),), Unpack(
            p.records.data_ptr() + first * units * size, p.tiles[first].data_ptr(), p.absmax2.data_ptr(),
            w.code2.data_ptr(), w.codes.data_ptr(), out.data_ptr(), count, units, p.width // 64, p.width,
            low, high,
        ))  # fmt: skip
        return out

    def _norm(self, h: Tensor, y: Tensor | None, gain: Tensor, x: Tensor) -> None:
        """Add y to h, and write the normalized h into x."""
        s = self._weights.shape
        added = 0 if y is None else y.data_ptr()
        self._machine.add_norm(
            (len(h),), AddNorm(h.data_ptr(), added, gain.data_ptr(), x.data_ptr(), s.width, s.eps)
        )

    def _product(self, x: Tensor, p: Packed, out: Tensor) -> Tensor:
        """Write x [n, width] times a matrix into out [n, rows], a slice of the rows at a time."""
        for first, count in packed_slices(p):
            part = out[:, first * 16 : (first + count) * 16]
            torch.mm(x, self.dequantize(p, first, count).t(), out=part)
        return out

    def _attention(self, index: int, layer: Layer, x: Tensor, table: Tensor, first: int) -> Tensor:
        """Return attention's addition to the residual stream, in the memory of x."""
        s, n = self._weights.shape, len(x)
        qkv = self._wide[: n * layer.qkv.rows].view(n, layer.qkv.rows)
        torch.mm(x, self.dequantize(layer.qkv).t(), out=qkv)
        self._machine.rotate_store((n,), Rotate(
            qkv.data_ptr(), self._pool[index].data_ptr(), table.data_ptr(), self._weights.rope.data_ptr(),
            first, s.heads,
        ))  # fmt: skip
        # KV heads are the batch. Their query heads see one expanded key, so nothing is copied.
        qkv = qkv.view(n, s.heads + 2 * s.kv_heads, s.head_dim).transpose(0, 1)
        q, k, v = torch.split(qkv, [s.heads, s.kv_heads, s.kv_heads])
        if first:
            pages = self._pool[index, table[: -(-(first + n) // PAGE)].long()]
            k, v = pages.permute(1, 2, 0, 3, 4).reshape(2, s.kv_heads, -1, s.head_dim)[:, :, : first + n]
        group = s.heads // s.kv_heads
        k, v = (t[:, None].expand(-1, group, -1, -1) for t in (k, v))
        out = self._dot_product(q.reshape(s.kv_heads, group, n, s.head_dim), k, v, first)
        heads = self._hidden[: n * s.heads * s.head_dim].view(n, s.kv_heads, group, s.head_dim)
        heads.copy_(out.permute(2, 0, 1, 3))
        return self._product(heads.view(n, -1), layer.out, x)

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

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        """Return the MLP's addition to the residual stream, in the memory of x."""
        s, n = self._weights.shape, len(x)
        act = self._hidden[: n * s.inner].view(n, s.inner)
        for first, count in packed_slices(layer.gate_up):
            rows = count * 16
            joined = self._wide[: n * rows].view(n, rows)
            torch.mm(x, self.dequantize(layer.gate_up, first, count, s.inner).t(), out=joined)
            self._machine.silu_product((-(-rows // (16 * 128)), n), Product(
                joined.data_ptr(), act.data_ptr() + first * 16, rows // 2, s.inner
            ))  # fmt: skip
        return self._product(act, layer.down, x)


def packed_slices(p: Packed) -> list[tuple[int, int]]:
    """Return a packed matrix as runs of tiles (first, count) that are unpacked one at a time."""
    return tile_slices(p.records.shape[0], p.width)
