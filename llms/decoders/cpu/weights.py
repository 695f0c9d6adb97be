"""Packed weights: bf16 matrices in the order in which the kernels read them, in as few bits as lose nothing.

`pack` turns matrices into blocks of 16 rows by 32 columns (matmul.h describes their three formats). Weights
that came from a GGUF file in Q4_1 or Q8_0 give the codes of that file back. `BlockFile` keeps the packed
weights of a checkpoint in the cache, because finding the codes takes 0.5 s to 2 s of CPU time.

    >>> import torch
    >>> pack([torch.zeros(16, 64, dtype=torch.bfloat16)]).shape  # 16 rows, 2 blocks of 32 columns, 4 bits
    torch.Size([1, 2, 320])
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llms.decoders.cpu import BLOCKS
from llms.decoders.cpu.native import BLOCK, LANES
from llms.models.checkpoint import MANIFEST
from llms.models.weights import ModelWeights

HEAD = "head"
"""Name of the packed output head."""

LAYOUT = "1"
"""Version of the block formats, recorded in a `BlockFile`; count it up when `pack` changes one of them."""

ROWS = 4096
"""Rows that are packed at a time. The fp32 copy of a whole embedding of 49,152 rows would take 113 MB."""

FOUR_BIT_ERROR = 0.01
"""Largest relative rms error of weights that count as 4-bit. Rounding such weights to bf16 leaves 0.0014;
rounding other weights to 4 bits leaves 0.09."""

EIGHT_BIT_ERROR = 0.003
"""Largest relative rms error of weights that count as 8-bit. Rounding such weights to bf16 leaves 0.0014;
rounding other weights to 8 bits leaves 0.006."""


JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The matrices that each product of a layer joins."""


def pack_model(weights: ModelWeights) -> dict[str, Tensor]:
    """Return the packed matrices of weights in bf16: `head`, and four for each layer, like `0.qkv`."""
    found = {HEAD: pack([weights.head])}
    for index in range(weights.config["num_hidden_layers"]):
        found |= {f"{index}.{name}": pack(weights.layer(index, *parts)) for name, parts in JOINED.items()}
    return found


def pack(weights: Sequence[Tensor]) -> Tensor:
    """Return matrices of one width, stacked, as uint8 [rows / 16, width / 32, bytes of a block].

    The width must be a multiple of 32. Rows are padded with zeros to a multiple of 16.
    """
    if all(is_four_bit(weight) for weight in weights):
        packed = _pack_four_bit
    elif all(is_eight_bit(weight) for weight in weights):
        packed = _pack_eight_bit
    else:
        packed = _pack_sixteen_bit
    joined = torch.cat([w.detach() for w in weights]) if len(weights) > 1 else weights[0].detach()
    short = -joined.shape[0] % LANES
    if short:
        joined = torch.cat([joined, joined.new_zeros(short, joined.shape[1])])
    return torch.cat([packed(part) for part in torch.split(joined, ROWS)])


def is_four_bit(weight: Tensor) -> bool:
    """Return whether a bf16 matrix holds weights of GGUF's Q4_1, judged by 16 rows spread over it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % BLOCK or weight.shape[0] % LANES:
        return False
    rows = weight.detach()[:: max(1, weight.shape[0] // LANES)].contiguous()
    codes, scales, low = four_bit_codes(rows)
    again = (codes.view(*scales.shape, BLOCK) * scales[..., None] + low[..., None]).view(rows.shape)
    exact = rows.float()
    return bool((again - exact).norm() <= FOUR_BIT_ERROR * exact.norm())


def four_bit_codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest codes int32 [rows, width], with scales and offsets fp32 [rows, width / 32].

    The smallest and largest weight of a block get the codes 0 and 15, as in GGUF's Q4_1, so weights that were
    quantized in that format give their own codes back.
    """
    blocks = weight.view(weight.shape[0], -1, BLOCK)
    # The transposed copy takes 141 ms for the layers of the embedded model; reducing over rows takes 250.
    columns = weight.view(-1, BLOCK).t().contiguous()
    low, high = (t.float().view(weight.shape[0], -1) for t in (columns.amin(0), columns.amax(0)))
    scales = torch.where(high > low, (high - low) / 15, 1.0)
    steps = scales.reciprocal()[..., None]
    codes = torch.addcmul(0.5 - low[..., None] * steps, blocks.float(), steps).to(torch.int32)
    return codes.view(weight.shape), scales, low


def is_eight_bit(weight: Tensor) -> bool:
    """Return whether a bf16 matrix holds weights of GGUF's Q8_0, judged by 16 rows spread over it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % BLOCK:
        return False
    rows = weight.detach()[:: max(1, weight.shape[0] // LANES)].contiguous()
    codes, scales = eight_bit_codes(rows)
    again, exact = (codes.view(*scales.shape, BLOCK) * scales[..., None]).view(rows.shape), rows.float()
    return bool((again - exact).norm() <= EIGHT_BIT_ERROR * exact.norm())


def eight_bit_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest codes of Q8_0: integers as fp32 [rows, width], and scales [rows, width / 32]."""
    blocks = weight.float().view(weight.shape[0], -1, BLOCK)
    scales = blocks.abs().amax(-1).clamp(min=1e-30) / 127
    codes = (blocks / scales[..., None]).round_()
    # bf16 rounded the largest weight too, so a scale fitted to all 32 weights is nearer to the file's own.
    return codes.view(weight.shape), (blocks * codes).sum(-1) / codes.square().sum(-1).clamp(min=1)


def _pack_four_bit(weight: Tensor) -> Tensor:
    codes, scales, low = four_bit_codes(weight)
    groups = codes.to(torch.uint8).view(-1, LANES, weight.shape[1] // BLOCK, 4, 2, 2, 2)
    pairs = groups[:, :, :, :, :, 0] | groups[:, :, :, :, :, 1] << 4  # column 8 q + 4 byte + 2 nibble + j
    words = pairs.permute(0, 2, 3, 1, 5, 4).flatten(2)
    return torch.cat([words, _fp16_bytes(scales), _fp16_bytes(low)], -1)


def _pack_eight_bit(weight: Tensor) -> Tensor:
    codes, scales = eight_bit_codes(weight)
    return torch.cat([_column_pairs(codes.to(torch.int8)).view(torch.uint8), _fp16_bytes(scales)], -1)


def _pack_sixteen_bit(weight: Tensor) -> Tensor:
    return _column_pairs(weight).view(torch.uint8)


def _column_pairs(values: Tensor) -> Tensor:
    """Reorder [rows, width] to [rows / 16, width / 32, 512]: pairs of columns of 16 rows."""
    blocks = values.view(-1, LANES, values.shape[1] // BLOCK, BLOCK // 2, 2)
    return blocks.permute(0, 2, 3, 1, 4).flatten(2)


def _fp16_bytes(values: Tensor) -> Tensor:
    """Reorder [rows, width / 32] to fp16 of 16 rows: uint8 [rows / 16, width / 32, 32]."""
    return values.view(-1, LANES, values.shape[1]).transpose(1, 2).contiguous().half().view(torch.uint8)


class BlockFile:
    """The packed weights of one checkpoint in the cache.

    The file only saves time. It is ignored if it is missing, torn, or made from other weights or by another
    version of `pack`. A folder that cannot be written to stays as it is.

    Args:
        folder: A checkpoint that was converted into the cache. Its manifest names the weights by their hash.
    """

    def __init__(self, folder: Path) -> None:
        manifest = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
        self.path = folder / BLOCKS
        self._metadata = {"of": hashlib.sha256(manifest).hexdigest(), "layout": LAYOUT}

    def read(self) -> dict[str, Tensor] | None:
        """Return the tensors by name, mapped from the file; None if the file cannot be used."""
        try:
            with safe_open(self.path, "pt") as file:
                if file.metadata() != self._metadata:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):
            return None

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the file by one with these tensors, or leave everything as it is if that fails."""
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            save_file(dict(tensors), part, metadata=self._metadata)
            part.chmod(0o644)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
        except (OSError, SafetensorError):
            part.unlink(missing_ok=True)
