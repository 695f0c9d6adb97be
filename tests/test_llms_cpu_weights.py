"""Packed weights use as few bits as lose nothing, in the order that matmul.h describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import Q4, Q8, random, rounded, unpack
from gguf import quants
from gguf.constants import GGMLQuantizationType

from llms.decoders.cpu.weights import eight_bit_codes, four_bit_codes, is_eight_bit, is_four_bit, pack


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
    assert is_eight_bit(eight) and not is_eight_bit(random(32, 64).bfloat16())
    assert not is_eight_bit(eight[:, :48].contiguous()) and not is_eight_bit(eight.float())


def test_codes_of_eight_bits_are_the_file_s() -> None:
    values = random(32, 64).numpy()
    stored = quants.quantize(values, Q8).reshape(32, -1, 34)
    weight = torch.from_numpy(quants.dequantize(stored.reshape(32, -1), Q8)).bfloat16()
    codes, scales = eight_bit_codes(weight)
    assert (codes.view(32, 2, 32).numpy() == stored[:, :, 2:].view(np.int8)).mean() > 0.99
    of_file = torch.from_numpy(stored[:, :, :2].copy().view(np.float16)[..., 0].astype(np.float32))
    torch.testing.assert_close(scales, of_file, rtol=0.002, atol=0)
    assert not eight_bit_codes(torch.zeros(16, 32))[0].any()


def test_the_codes_of_a_gguf_file_are_found_again() -> None:
    values = random(64, 128).numpy()
    packed = quants.quantize(values, GGMLQuantizationType.Q4_1)
    nibbles = torch.from_numpy(packed.reshape(64, -1, 20)[:, :, 4:].copy())
    expected = torch.cat([nibbles & 15, nibbles >> 4], -1).view(64, 128)
    weight = torch.from_numpy(quants.dequantize(packed, GGMLQuantizationType.Q4_1)).bfloat16()
    codes, scales, low = four_bit_codes(weight)
    assert torch.equal(codes, expected.int())
    again = codes.view(64, -1, 32) * scales[..., None] + low[..., None]
    assert (again.view(64, 128) - weight.float()).norm() <= 0.004 * weight.float().norm()


def test_a_block_of_one_value_is_that_value() -> None:
    weight = torch.full((16, 64), 0.1).bfloat16()
    weight[:, 32:] = 0
    codes, _, low = four_bit_codes(weight)
    assert not codes.any() and torch.equal(low[0], weight[0, ::32].float())


def test_only_weights_on_a_lattice_count_as_four_bit() -> None:
    weight = rounded(random(64, 128), GGMLQuantizationType.Q4_1)
    assert is_four_bit(weight)
    assert not is_four_bit(weight.float())
    assert not is_four_bit(random(64, 128).bfloat16())
    for kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q8_0):
        assert not is_four_bit(rounded(random(64, 128), kind))
    assert not is_four_bit(weight[:, :48].contiguous())
    touched = weight + random(64, 1, 3).bfloat16() @ random(1, 128, 4).bfloat16() * 20  # a merged adapter
    assert not is_four_bit(touched)
