"""Products of the lean decoder: joined, reordered and 4-bit weights give what plain products give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import quants
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from llms.lean.weights import FEW_ROWS, PAID_OFF, Product, _agrees, four_bit_kernel, lattice, on_lattice


def random(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def four_bit(rows: int, width: int, kind: GGMLQuantizationType) -> Tensor:
    """Weights as a GGUF file has them, converted to bf16."""
    packed = quants.quantize(random(rows, width).numpy(), kind)
    return torch.from_numpy(quants.dequantize(packed, kind).astype(np.float32)).bfloat16()


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 7, 33, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_of_joined_weights_is_the_products_side_by_side(rows: int, dtype: torch.dtype) -> None:
    weights = [random(n, 96, n).to(dtype) for n in (64, 16, 48)]
    x = random(rows, 96, 7).to(dtype) * 20
    product = Product(weights)
    found = product(x)
    assert all(torch.equal(product(x), found) for _ in range(PAID_OFF + 1))
    expected = torch.cat([x.double() @ w.double().T for w in weights], -1)
    assert found.dtype == dtype and found.shape == (rows, 128)
    error = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found.double(), expected, atol=error, rtol=error)


@pytest.mark.parametrize("rows", [1, 3, FEW_ROWS, FEW_ROWS + 1, 40])
def test_four_bit_weights_multiply_like_the_bf16_ones(rows: int) -> None:
    weights = [four_bit(n, 128, GGMLQuantizationType.Q4_1) for n in (48, 16, 64)]
    x = (random(rows, 128, 7) * 20).bfloat16()
    found = Product(weights, four_bit=True)(x).double()
    expected = x.double() @ torch.cat(weights).double().T
    assert (found - expected).norm() <= 0.004 * expected.norm()


@pytest.mark.parametrize("rows", [2, FEW_ROWS])
def test_four_bit_weights_multiply_rows_that_lie_apart_in_memory(rows: int) -> None:
    product = Product([four_bit(48, 128, GGMLQuantizationType.Q4_1)], four_bit=True)
    wide = random(rows, 256, 7).bfloat16()
    assert torch.equal(product(wide[:, :128]), product(wide[:, :128].contiguous()))


def test_the_codes_of_a_gguf_file_are_found_again() -> None:
    values = random(64, 128).numpy()
    packed = quants.quantize(values, GGMLQuantizationType.Q4_1)
    nibbles = torch.from_numpy(packed.reshape(64, -1, 20)[:, :, 4:].copy())
    expected = torch.cat([nibbles & 15, nibbles >> 4], -1).view(64, 128)
    weight = torch.from_numpy(quants.dequantize(packed, GGMLQuantizationType.Q4_1)).bfloat16()
    codes, scales, low = lattice(weight)
    assert torch.equal(codes, expected.int())
    again = codes.view(64, -1, 32) * scales[..., None] + low[..., None]
    assert (again.view(64, 128) - weight.float()).norm() <= 0.004 * weight.float().norm()


def test_a_block_of_one_value_is_that_value() -> None:
    weight = torch.full((16, 64), 0.1).bfloat16()
    weight[:, 32:] = 0
    codes, _, low = lattice(weight)
    assert not codes.any() and torch.equal(low[0], weight[0, ::32].float())


def test_only_weights_on_a_lattice_count_as_four_bit() -> None:
    weight = four_bit(64, 128, GGMLQuantizationType.Q4_1)
    assert on_lattice(weight)
    assert not on_lattice(weight.float())
    assert not on_lattice(random(64, 128).bfloat16())
    for kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q8_0):
        assert not on_lattice(four_bit(64, 128, kind))
    assert not on_lattice(weight[:, :48].contiguous())
    touched = weight + random(64, 1, 3).bfloat16() @ random(1, 128, 4).bfloat16() * 20  # a merged adapter
    assert not on_lattice(touched)


def test_damage_shows_in_the_product() -> None:
    weight = four_bit(16, 64, GGMLQuantizationType.Q4_1)
    weight[3, 40] = torch.nan
    out: Tensor = Product([weight], four_bit=True)(random(1, 64, 1).bfloat16())
    assert out[0, 3].isnan() and not out[0, :3].isnan().any()
    assert F.linear(random(1, 64, 1).bfloat16(), weight)[0, 3].isnan()


def test_a_kernel_that_is_missing_or_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _agrees(F.linear)
    assert not _agrees(lambda x, w: F.linear(x, w) + 1)
    assert not _agrees(lambda x, w: torch.no_such_kernel(x, w))
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert four_bit_kernel()
        monkeypatch.delattr(torch, "_weight_int4pack_mm_for_cpu")
        four_bit_kernel.cache_clear()
        assert not four_bit_kernel()
        four_bit_kernel.cache_clear()
