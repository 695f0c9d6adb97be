"""Weights and tiny models for tests of the CPU decoder, and the self-test's layer computed by PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gguf import quants
from gguf.constants import GGMLQuantizationType
from tiny_models import tiny_model
from torch import Tensor, nn

from llms.decoders.cpu.native import BITS, BLOCK, HEADS, LANES, STEPS, WIDTH, WORDS, MadeUpLayer

Q4, Q8 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def random(rows: int, width: int, seed: int = 0) -> Tensor:
    """Draw weights, fp32 [rows, width]."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def rounded(weight: Tensor, kind: GGMLQuantizationType | None) -> Tensor:
    """Return weights as a GGUF file of that kind stores them, converted to bf16."""
    if kind is None:
        return weight.bfloat16()
    values = quants.dequantize(quants.quantize(weight.float().numpy(), kind), kind)
    return torch.from_numpy(values.astype(np.float32)).bfloat16()


def model_of(kind: GGMLQuantizationType | None, **changes: Any) -> Any:
    """Build a tiny model whose matrices, head included, hold weights of that kind in bf16."""
    found = tiny_model(dtype=torch.bfloat16, **{"head_dim": 32} | changes)
    for linear in (m for m in found.modules() if isinstance(m, nn.Linear)):
        linear.weight.data = rounded(linear.weight.detach(), kind)
    return found


def unpack(blocks: Tensor) -> Tensor:
    """Return the weights fp32 [rows, width] of blocks uint8 [rows / 16, width / 32, bytes] (see matmul.h)."""
    groups, count, size = blocks.shape
    found = torch.zeros(groups * LANES, count * BLOCK)
    for group in range(groups):
        for block in range(count):
            raw = blocks[group, block].numpy()
            for row in range(LANES):
                for column in range(BLOCK):
                    weight = _weight(raw, BITS[size], row, column)
                    found[group * LANES + row, block * BLOCK + column] = weight
    return found


def _weight(raw: np.ndarray, bits: int, row: int, k: int) -> float:
    if bits == 16:
        word = raw.view(np.uint16)[32 * (k // 2) + 2 * row + k % 2]
        return float(np.array(int(word) << 16, np.uint32).view(np.float32))
    if bits == 8:
        return float(raw.view(np.int8)[32 * (k // 2) + 2 * row + k % 2]) * float(
            raw[512:].view(np.float16)[row]
        )
    q, p, j = k // 8, k % 8 // 2, k % 2
    nibble = int(raw[:256].view(np.uint32)[16 * q + row]) >> (4 * p + 16 * j) & 15
    return nibble * float(raw[256:288].view(np.float16)[row]) + float(raw[288:].view(np.float16)[row])


def self_test_logits(layer: MadeUpLayer, bits: int, dim: int) -> Tensor:
    """Return the logits fp64 [tokens, words] of the layer that the kernels' self-test makes up."""

    def bf16(name: str, *shape: int) -> Tensor:
        words = torch.tensor(list(layer.arrays[name]), dtype=torch.int32) << 16
        return words.view(torch.float32).double().view(*shape)

    def times(x: Tensor, name: str, width: int = WIDTH) -> Tensor:
        size = next(size for size, of in BITS.items() if of == bits)
        blocks = torch.frombuffer(layer.arrays[name], dtype=torch.uint8).view(-1, width // BLOCK, size)
        return x @ unpack(blocks).double().T

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], torch.tensor(list(layer.arrays[name])).double(), 1e-5)

    count = sum(STEPS)
    cos, sin = (
        torch.tensor(list(layer.arrays[name])).double().view(count, 1, dim // 2) for name in ("cos", "sin")
    )
    cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    x = bf16("embedding", WORDS, WIDTH)[torch.arange(count) * 7 % WORDS]
    qkv = times(norm(x, "attention_norm"), "qkv").view(count, -1, dim)
    q, k = (t * cos + t.roll(dim // 2, -1) * sin for t in (qkv[:, :HEADS], qkv[:, HEADS : HEADS + 1]))
    v = qkv[:, HEADS + 1 :].expand(-1, HEADS, -1)
    q, k, v = (t.transpose(0, 1) for t in (q, k.expand(-1, HEADS, -1), v))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + times(seen.transpose(0, 1).flatten(1), "out", HEADS * dim)
    gate, up = times(norm(x, "mlp_norm"), "gate_up").chunk(2, -1)
    x = x + times(F.silu(gate) * up, "down", gate.shape[1])
    return times(norm(x, "norm"), "head")
