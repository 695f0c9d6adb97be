"""A decode step as a CUDA graph, one for each number of columns.

The caller describes the columns (token, slot, position, group, sampling) in the buffer `meta`; the graphs
read everything else from fixed buffers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llms.decoders.cuda.layout import Packed
from llms.decoders.cuda.machine import PAGE, Ahead, Attention, Embed, Linear, Machine, Norm
from llms.decoders.cuda.sampler import Sampler
from llms.decoders.cuda.weights import CudaWeights

FIELDS = (
    "token", "slot", "pos", "group_first", "group_count",
    "top_k", "temperature", "top_p", "min_p", "seed_low", "seed_high", "penalty", "biases",
)  # fmt: skip
CODE_SCALE = 1.4367
"""Factor of NF4 codes that minimizes their loss in bf16: 7.8e-4 of normal weights, against 1.36e-3 at 1."""
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def tiles_of_columns(bucket: int) -> int:
    """Return NT of the kernels: 0 for one column, else columns / 8, at least 1."""
    return 0 if bucket == 1 else max(1, bucket // 8)


class Graphs:
    """Buffers of a step and the graphs over them.

    Args:
        machine: Compiled kernels.
        weights: Packed weights.
        pool: bf16 [layers, pages, 2, kv_heads, PAGE, head_dim], the KV cache.
        tables: int32 [slots + 1, max_pages], the page tables; the last row is all zero.

    Attributes:
        meta: int32 [fields, 64], the description of each column (floats as their bits).
        logits: bf16 [64, vocabulary].
        sampled: int64 [64].
    """

    def __init__(self, machine: Machine, weights: CudaWeights, pool: Tensor, tables: Tensor) -> None:
        s, device, most = weights.shape, machine.device, machine.columns
        self.machine, self.weights, self.pool, self.tables = machine, weights, pool, tables

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*size, dtype=dtype, device=device)

        bf16 = torch.bfloat16
        self.h = zeros(most, s.width, dtype=torch.float32)
        self.x, self.act = (zeros(most * _padded(k), dtype=bf16) for k in (s.width, s.inner))
        self.att = zeros(most * _padded(s.heads * s.head_dim), dtype=bf16)
        self.q = zeros(most, s.heads * s.head_dim, dtype=bf16)
        self.ssq = zeros(max(s.width // 16, 512) * 64, dtype=torch.float32)
        self.normed = zeros(most, s.width, dtype=bf16)
        self.logits = zeros(most, s.vocabulary, dtype=bf16)
        self.sampled = zeros(most, dtype=torch.int64)
        self.meta = zeros(len(FIELDS), 64, dtype=torch.int32)
        self.meta[1] = tables.shape[0] - 1
        self.counters = zeros(4096, dtype=torch.int32)
        self.partial = zeros(self._partial_floats(), dtype=torch.float32)
        self.lut = _lut(weights.codes)
        size = {"slots": tables.shape[0], "window": tables.shape[1] * PAGE}
        self.sampler = Sampler(machine, **size, meta=self.meta, fields=FIELDS)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        # All captures use one stream, because cuBLAS keeps 32 MB of workspace for every stream it has seen.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the numbers of columns that a step can have."""
        return tuple(b for b in BUCKETS if b <= self.machine.columns)

    @property
    def layers(self) -> int:
        """Return the number of layer kernels, for profiles: five for each layer (see `launch`)."""
        return 5 * self.weights.shape.layers

    def replay(self, bucket: int) -> None:
        """Run one step over the first `bucket` columns of `meta`."""
        if bucket not in self._graphs:
            self.capture(bucket)
        self._graphs[bucket].replay()

    def capture(self, bucket: int) -> None:
        """Record the step for one bucket. The step runs once before, over columns of the spare slot."""
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        kept = self.meta.clone()
        self.meta.zero_()
        self.meta[1] = self.tables.shape[0] - 1
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.launch(bucket)  # cuBLAS chooses its kernel outside of the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=stream):
            self.launch(bucket)
        torch.cuda.current_stream().wait_stream(stream)
        self.meta.copy_(kept)
        self._graphs[bucket] = graph

    def launch(self, bucket: int) -> None:
        """Launch a step's kernels one by one."""
        m, w, s, nt = self.machine, self.weights, self.weights.shape, tiles_of_columns(bucket)
        m.embed((bucket,), Embed(
            self._meta("token"), w.embedding.data_ptr(), w.layers[0].attention_gain.data_ptr(),
            self.h.data_ptr(), self.x.data_ptr(), self.ssq.data_ptr(), s.width, nt,
        ))  # fmt: skip
        count = 1
        gains = [layer.attention_gain for layer in w.layers[1:]] + [w.gain]
        after = [m.ahead(layer.qkv, nt) for layer in w.layers[1:]] + [Ahead()]
        for index, (layer, gain, then) in enumerate(zip(w.layers, gains, after, strict=True)):
            # One column is normalized by the kernel that reads it, several by the kernel that writes them.
            own = (layer.attention_gain, layer.mlp_gain) if nt == 0 else (None, None)
            self.linear(
                "qkv", layer.qkv, self.x, bucket, layer=index, ssq_count=count, gain=own[0],
                ahead=m.ahead(layer.out, nt),
            )  # fmt: skip
            self.attend(index, bucket)
            count = self.linear(
                "residual", layer.out, self.att, bucket, gain=layer.mlp_gain,
                ahead=m.ahead(layer.gate_up, nt),
            )  # fmt: skip
            self.linear(
                "silu", layer.gate_up, self.x, bucket, ssq_count=count, gain=own[1],
                ahead=m.ahead(layer.down, nt),
            )  # fmt: skip
            count = self.linear("residual", layer.down, self.act, bucket, gain=gain, ahead=then)
        norm = Norm(self.h.data_ptr(), w.gain.data_ptr(), self.normed.data_ptr(), s.width, s.eps)
        m.final_norm((bucket,), norm)
        torch.mm(self.normed[:bucket], w.head.t(), out=self.logits[:bucket])
        self.sampler.launch(bucket, self.logits, self.sampled)

    def linear(
        self,
        kind: str,
        p: Packed,
        x: Tensor,
        bucket: int,
        *,
        layer: int = 0,
        gain: Tensor | None = None,
        ssq_count: int = 1,
        ahead: ctypes.Structure | None = None,
    ) -> int:
        """Launch one product; return into how many parts it splits the sums of squares of its result.

        Args:
            kind: The use of the result, one of `machine.KINDS`.
            p: The weights.
            x: Packed activations.
            bucket: Number of columns.
            layer: The layer whose KV cache receives the result.
            gain: Gain of a norm, see kernels/linear.cuh.
            ssq_count: Parts of the sums of squares of x.
            ahead: The part of the next product's weights to prefetch into L2.
        """
        m, s, w, nt = self.machine, self.weights.shape, self.weights, tiles_of_columns(bucket)
        tiles, units = p.records.shape[:2]
        rows, splits = m.blocks(tiles, units, nt)
        out = self.act if kind == "silu" else self.x
        arguments = Linear(
            p.records.data_ptr(), p.tiles.data_ptr(), p.absmax2.data_ptr(), w.code2.data_ptr(),
            self.lut.data_ptr(), x.data_ptr(), self.ssq.data_ptr(), self.partial.data_ptr(),
            self.counters.data_ptr(), self.h.data_ptr(), out.data_ptr(),
            gain.data_ptr() if gain is not None else 0, self.ssq.data_ptr(), self.q.data_ptr(),
            self.pool[layer].data_ptr(), self._meta("slot"), self._meta("pos"), self.tables.data_ptr(),
            w.rope.data_ptr(), tiles, units, ssq_count, splits, s.heads * s.head_dim, s.kv_heads * s.head_dim,
            self.tables.shape[1], bucket, s.width, p.width // 64, s.eps, 1.0 / s.width, 1.0 / CODE_SCALE,
            ahead or Ahead(),
        )  # fmt: skip
        m.linear[nt, kind]((rows, splits), arguments)
        return tiles if nt == 0 else rows * splits

    def attend(self, layer: int, bucket: int) -> None:
        """Launch one layer's attention."""
        m, s, nt = self.machine, self.weights.shape, tiles_of_columns(bucket)
        plan = m.attend(bucket)
        arguments = Attention(
            self.q.data_ptr(), self.pool[layer].data_ptr(), self.att.data_ptr(),
            *map(self._meta, ("slot", "pos")), self.tables.data_ptr(),
            *map(self._meta, ("group_first", "group_count")), self.partial.data_ptr(),
            self.counters.data_ptr() + 4 * 2048, self.tables.shape[1], plan.splits, s.sliding,
            nt, plan.least, plan.soon, math.log2(math.e) / math.sqrt(s.head_dim),
        )  # fmt: skip
        m.attention[plan.warps]((plan.splits, s.kv_heads, bucket), arguments)

    def _meta(self, field: str) -> int:
        return self.meta[FIELDS.index(field)].data_ptr()

    def _partial_floats(self) -> int:
        m, s = self.machine, self.weights.shape
        most = 0
        for bucket in self.buckets:
            groups = bucket * s.kv_heads * m.attend(bucket).splits
            most = max(most, groups * 16 * (s.head_dim + 2))
            nt = tiles_of_columns(bucket)
            for p in _products(self.weights):
                tiles, units = p.records.shape[:2]
                most = max(most, m.blocks(tiles, units, nt)[1] * tiles * nt * 128)
        return most


def _products(weights: CudaWeights) -> Iterator[Packed]:
    layer = weights.layers[0]
    yield from (layer.qkv, layer.out, layer.gate_up, layer.down)


def _padded(width: int) -> int:
    return -(-width // 256) * 256


def _lut(codes: Tensor) -> Tensor:
    """Return int32 [256]: for each byte, its codes times CODE_SCALE as a bf16 pair, high half first."""
    value = (codes.float() * CODE_SCALE).to(torch.bfloat16)
    byte = torch.arange(256, device=codes.device)
    return torch.stack([value[byte >> 4], value[byte & 15]], 1).contiguous().view(torch.int32).flatten()


assert PAGE % 16 == 0
