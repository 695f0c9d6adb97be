"""GGUF files read in place: every type's weights and products, whole models, pages and threads."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu_sets import AVAILABLE, every_set, needs_kernels
from decoder_contract import DecoderContract
from gguf.constants import GGMLQuantizationType
from gguf_files import TYPES, floats, random_blocks, write_gguf
from tiny_models import tiny_tokenizer

from llms.decoders.base import Decoder
from llms.decoders.cpu import native
from llms.decoders.cpu.decoder import CpuDecoder
from llms.decoders.cpu.native import MatrixStruct
from llms.decoders.cpu.parameters import FORMATS
from llms.models.gguf_model import GgufModel

IN_EIGHT_BITS = ("Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
"""Types whose products round activations to 8 bits."""


def kernels(name: str) -> ctypes.CDLL:
    found = native.load(name)
    assert not isinstance(found, str), found
    return found.library


@needs_kernels
@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_those_that_the_package_gguf_reads(kind: str) -> None:
    raw = random_blocks(kind, 48, 512)
    found = np.zeros((48, 512), np.float32)
    number = ctypes.c_int64(int(GGMLQuantizationType[kind]))
    kernels(AVAILABLE[0]).cpu_dequantize(
        number, raw.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(48), ctypes.c_int64(512),
        found.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    np.testing.assert_allclose(found, floats(kind, raw), rtol=1e-6, atol=1e-7)


def product(kind: str, raw: np.ndarray, x: np.ndarray, instructions: str) -> np.ndarray:
    """Return x times the transposed matrix, fp32 [tokens, rows], as the kernels compute it."""
    raw = raw.copy()  # packing gives the pages of the rows back, which only a file's get again
    rows, width = len(raw), x.shape[1]
    groups, (number, size) = -(-rows // 16), FORMATS[kind]
    blocks = np.zeros(groups * width // 32 * size, np.uint8)
    flags, out = np.zeros(groups, np.uint8), np.zeros((len(x), groups * 16), np.float32)
    matrix = MatrixStruct(
        groups, width, number, blocks.ctypes.data, raw.ctypes.data, int(GGMLQuantizationType[kind]),
        rows, 0, flags.ctypes.data,
    )  # fmt: skip
    status = kernels(instructions).cpu_multiply(
        ctypes.byref(matrix), x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(x)),
        out.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    assert status == 0 and (flags == 2).all()
    return out[:, :rows]


@every_set()
@pytest.mark.parametrize("kind", TYPES)
def test_products_are_those_of_the_weights(kind: str, instructions: str) -> None:
    """The error is that of activations in 8 bits, or in bf16 for bf16 weights, and a thousandth else."""
    raw = random_blocks(kind, 40, 512)
    x = np.random.default_rng(2).standard_normal((21, 512)).astype(np.float32)
    exact = x.astype(np.float64) @ floats(kind, raw).astype(np.float64).T
    found = product(kind, raw, x, instructions)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error <= (0.009 if kind in IN_EIGHT_BITS else 0.003)
    for one in range(21):  # the same bits alone and in any batch
        assert (product(kind, raw, x[one : one + 1], instructions) == found[one]).all()


@every_set()
@pytest.mark.parametrize("kind", IN_EIGHT_BITS)
def test_one_large_activation_does_not_drown_its_neighbours(kind: str, instructions: str) -> None:
    """A chat's markers have such activations; 8 bits alone give an error of 100 % here."""
    raw = random_blocks(kind, 32, 512)
    x = np.random.default_rng(3).standard_normal((3, 512)).astype(np.float32)
    large = x.copy()
    large[:, 7::256] = 500
    exact = x.astype(np.float64) @ floats(kind, raw).astype(np.float64).T
    spikes = (large - x).astype(np.float64) @ floats(kind, raw).astype(np.float64).T
    found = product(kind, raw, large, instructions) - spikes
    assert np.linalg.norm(found - exact) <= 0.03 * np.linalg.norm(exact)


@every_set()
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damage_shows_in_the_product(kind: str, value: float, instructions: str) -> None:
    x = np.ones((2, 512), np.float32)
    x[1, 99] = value
    found = product(kind, random_blocks(kind, 16, 512), x, instructions)
    assert np.isfinite(found[0]).all() and not np.isfinite(found[1]).any()


@pytest.fixture(scope="module", name="mixed")
def model_of_four_types(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    kinds = {"attn_v": "Q6_K", "output": "Q8_0", "ffn_down": "Q5_K", "token_embd": "Q5_0"}
    model = write_gguf(path, architecture="qwen2", kinds=kinds)
    model.path = path
    return model


@every_set()
class TestInPlace(DecoderContract):
    """The contract on a Qwen2 with biases and four types, whose logits are about 0.7 and up to 3.

    Activations in 8 bits leave 1 to 2 % of them; 0.08 was measured.
    """

    tolerance = 0.15

    @pytest.fixture
    def model(self, mixed: Any) -> Any:
        return mixed

    @pytest.fixture
    def tokenizer(self) -> Any:
        return tiny_tokenizer()

    @pytest.fixture
    def decoder(self, model: Any, instructions: str) -> Decoder:
        decoder = CpuDecoder(GgufModel.open(model.path), max_slots=16, instructions=instructions)
        assert f"{instructions}, Q4_K weights" in decoder.describe()
        return decoder


def plain(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(torch.tensor([ids]), use_cache=False).logits[0])


@needs_kernels
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers(architecture: str, kind: str, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", kind, architecture=architecture, tied=kind in ("Q5_0", "Q6_K"))
    decoder = CpuDecoder(GgufModel.open(tmp_path / "m.gguf"), max_slots=2)
    ids = [(7 * i) % 250 for i in range(40)]
    exact = plain(model, ids)
    found = torch.as_tensor(decoder.step([0], [ids], all_logits=True).logits[0])
    assert (found - exact).norm() <= (0.04 if kind in IN_EIGHT_BITS else 0.015) * exact.norm()
    parts = [decoder.prefill(1, ids[:9]), *(decoder.prefill(1, [i]) for i in ids[9:])]
    assert torch.equal(torch.stack(parts), found[8:]), "the same bits in any batch"


@needs_kernels
def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            decoder = CpuDecoder(GgufModel.open(tmp_path / "m.gguf"), max_slots=1)
            found.append(decoder.prefill(0, list(range(40))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernels
def test_rotary_factors_and_linear_scaling(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    model = GgufModel.open(tmp_path / "m.gguf")
    plain_angles = model.inv_freq()
    scaled = GgufModel(
        file=model.file, tensors=model.tensors, config=dict(model.config) | {"rope_scaling_factor": 4.0}
    )
    np.testing.assert_allclose(scaled.inv_freq() * 4, plain_angles)
    np.testing.assert_allclose(plain_angles, 10_000.0 ** (-np.arange(0, 64, 2) / 64), rtol=1e-6)
