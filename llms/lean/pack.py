"""A bf16 matrix as the lean decoder's machine code reads it: blocks of 16 rows by 32 columns.

Knows the three forms that `product.h` describes, and how to tell which of them loses nothing. Weights
that came from a GGUF file in Q4_1 or Q8_0 give their codes back; the scales are fp16, as they were there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llms.lean.weights import BLOCK, lattice, on_lattice

LANES = 16
"""Rows of a matrix that lie side by side."""

BITS = {320: 4, 544: 8, 1024: 16}
"""Bits of a weight, by the bytes of a block."""

ROWS = 4096
"""Rows that are packed at once: the fp32 copy of an embedding of 49,152 rows would be 113 MB."""

ON_EIGHT_BITS = 0.003
"""Largest relative error (rms) of weights that count as 8-bit: 0.0014 is what bf16 leaves of such weights,
and 0.006 is what 8 bits leave of others."""


def pack(weights: Sequence[Tensor]) -> Tensor:
    """Return matrices of one width, one below the other, as uint8 [rows / 16, width / 32, bytes of a block].

    The width is a multiple of 32; rows are filled up with zeros to a multiple of 16.
    """
    if all(on_lattice(w) for w in weights):
        form = _four
    elif all(on_eight_bits(w) for w in weights):
        form = _eight
    else:
        form = _sixteen
    joined = torch.cat([w.detach() for w in weights]) if len(weights) > 1 else weights[0].detach()
    short = -joined.shape[0] % LANES
    if short:
        joined = torch.cat([joined, joined.new_zeros(short, joined.shape[1])])
    return torch.cat([form(part) for part in torch.split(joined, ROWS)])


def on_eight_bits(weight: Tensor) -> bool:
    """Tell whether a bf16 matrix holds 8-bit weights in blocks of 32, from 16 rows spread over it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % BLOCK:
        return False
    rows = weight.detach()[:: max(1, weight.shape[0] // LANES)].contiguous()
    codes, scales = eight_bit_codes(rows)
    again, exact = (codes.view(*scales.shape, BLOCK) * scales[..., None]).view(rows.shape), rows.float()
    return bool((again - exact).norm() <= ON_EIGHT_BITS * exact.norm())


def eight_bit_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest codes of GGUF's Q8_0: integers as fp32 [rows, width], scales [rows, width / 32]."""
    blocks = weight.float().view(weight.shape[0], -1, BLOCK)
    scales = blocks.abs().amax(-1).clamp(min=1e-30) / 127
    codes = (blocks / scales[..., None]).round_()
    # The largest weight was rounded to bf16 too: a scale fitted to all 32 of them is nearer to the file's.
    return codes.view(weight.shape), (blocks * codes).sum(-1) / codes.square().sum(-1).clamp(min=1)


def _four(weight: Tensor) -> Tensor:
    codes, scales, low = lattice(weight)
    groups = codes.to(torch.uint8).view(-1, LANES, weight.shape[1] // BLOCK, 4, 2, 2, 2)
    pairs = groups[:, :, :, :, :, 0] | groups[:, :, :, :, :, 1] << 4  # column 8 q + 4 byte + 2 nibble + j
    words = pairs.permute(0, 2, 3, 1, 5, 4).flatten(2)
    return torch.cat([words, _halves(scales), _halves(low)], -1)


def _eight(weight: Tensor) -> Tensor:
    codes, scales = eight_bit_codes(weight)
    return torch.cat([_columns(codes.to(torch.int8)).view(torch.uint8), _halves(scales)], -1)


def _sixteen(weight: Tensor) -> Tensor:
    return _columns(weight).view(torch.uint8)


def _columns(values: Tensor) -> Tensor:
    """Order [rows, width] as [rows / 16, width / 32, 512]: pairs of columns of 16 rows."""
    blocks = values.view(-1, LANES, values.shape[1] // BLOCK, BLOCK // 2, 2)
    return blocks.permute(0, 2, 3, 1, 4).flatten(2)


def _halves(values: Tensor) -> Tensor:
    """Order [rows, width / 32] as fp16 of 16 rows: uint8 [rows / 16, width / 32, 32]."""
    return values.view(-1, LANES, values.shape[1]).transpose(1, 2).contiguous().half().view(torch.uint8)
