"""Weights as blocks: in as few bits as lose nothing, in the order that the source's head describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import quants
from lean_models import Q4, Q8, random, rounded
from torch import Tensor

from llms.lean.pack import BITS, BLOCK, LANES, eight_bit_codes, on_eight_bits, pack


def unpack(blocks: Tensor) -> Tensor:
    """Weights fp32 [rows, width], read off the blocks one by one, as the source's head describes them."""
    groups, count, size = blocks.shape
    found = torch.zeros(groups * LANES, count * BLOCK)
    for g in range(groups):
        for b in range(count):
            raw = blocks[g, b].numpy()
            for row in range(LANES):
                for k in range(BLOCK):
                    found[g * LANES + row, b * BLOCK + k] = _weight(raw, BITS[size], row, k)
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


@pytest.mark.parametrize(("kind", "size"), [(Q4, 320), (Q8, 544), (None, 1024)])
def test_weights_are_packed_in_as_few_bits_as_lose_nothing(kind: Any, size: int) -> None:
    weights = [rounded(random(rows, 64, rows), kind) for rows in (32, 16, 32 if kind is Q4 else 21)]
    count = sum(len(w) for w in weights)
    blocks = pack(weights)
    assert blocks.shape == (5, 2, size)  # rows are filled up to 80
    expected = torch.cat(weights).float()
    found = unpack(blocks)
    assert not found[count:].any()
    assert (found[:count] - expected).norm() <= (0 if kind is None else 0.003) * expected.norm()


def test_a_matrix_of_another_kind_beside_takes_the_bits_it_needs() -> None:
    four, eight = rounded(random(32, 64), Q4), rounded(random(32, 64, 1), Q8)
    assert pack([four, four]).shape[-1] == 320
    assert pack([four, random(32, 64).bfloat16()]).shape[-1] == 1024
    assert on_eight_bits(eight) and not on_eight_bits(random(32, 64).bfloat16())
    assert not on_eight_bits(eight[:, :48].contiguous()) and not on_eight_bits(eight.float())


def test_codes_of_eight_bits_are_the_file_s() -> None:
    values = random(32, 64).numpy()
    stored = quants.quantize(values, Q8).reshape(32, -1, 34)
    weight = torch.from_numpy(quants.dequantize(stored.reshape(32, -1), Q8)).bfloat16()
    codes, scales = eight_bit_codes(weight)
    assert (codes.view(32, 2, 32).numpy() == stored[:, :, 2:].view(np.int8)).mean() > 0.99
    of_file = torch.from_numpy(stored[:, :, :2].copy().view(np.float16)[..., 0].astype(np.float32))
    torch.testing.assert_close(scales, of_file, rtol=0.002, atol=0)
    assert not eight_bit_codes(torch.zeros(16, 32))[0].any()
