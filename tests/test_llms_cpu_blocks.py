"""Weights in 4 bits: decoding, and the file next to the checkpoint that keeps them packed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu_sets import needs_kernels
from gguf import quants
from gguf.constants import GGMLQuantizationType
from safetensors.torch import save_file
from test_llms_adapter import lora
from tiny_models import tiny_gguf, tiny_model
from torch import nn

from llms.decoders.cpu import memory
from llms.decoders.cpu.decoder import CpuDecoder
from llms.decoders.cpu.weights import BlockFile
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.models.checkpoint import Checkpoint
from llms.models.gguf import converted
from llms.models.load import LoadSettings, load, make_decoder
from llms.models.weights import weights_of


@pytest.fixture(scope="module", name="model")
def four_bit_model() -> Any:
    """A tiny model whose layers hold 4-bit weights, in bf16."""
    found = tiny_model(dtype=torch.bfloat16, head_dim=32)
    for layer in found.model.layers:
        for linear in (m for m in layer.modules() if isinstance(m, nn.Linear)):
            packed = quants.quantize(linear.weight.detach().float().numpy(), GGMLQuantizationType.Q4_1)
            values = quants.dequantize(packed, GGMLQuantizationType.Q4_1).astype(np.float32)
            linear.weight.data = torch.from_numpy(values).bfloat16()
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    return tmp_path


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_batches_of_any_size_give_the_reference_s_logits(model: Any, count: int) -> None:
    decoder, reference = CpuDecoder(weights_of(model), max_slots=8), ReferenceDecoder(model, max_slots=8)
    assert "4-bit" in decoder.describe()
    slots, prompts = list(range(count)), [[(5 * i + j) % 250 for i in range(3 + j)] for j in range(count)]
    for tokens in (prompts, [[7 + slot] for slot in slots], [[9, 11] for _ in slots]):
        found = decoder.step(slots, tokens, all_logits=True).logits
        expected = reference.step(slots, tokens, all_logits=True).logits
        for row, other in zip(found, expected, strict=True):
            assert (row - other).norm() <= 0.02 * other.norm()


@needs_kernels
@pytest.mark.parametrize("length", [1, 4, 5, 6, 40])
def test_a_prompt_cached_but_for_its_last_token_goes_on_with_the_same_bits(model: Any, length: int) -> None:
    decoder, prompt = CpuDecoder(weights_of(model), max_slots=4), [(5 * i) % 250 for i in range(length)]
    first = decoder.step([0], [prompt], [Sampling()])
    again = [decoder.step([0], [[token]]).logits for token in (3, 4)]
    decoder.fork(0, 2, length - 1)
    assert decoder.length(2) == length - 1
    second = decoder.step([2], [prompt[-1:]], [Sampling()])
    assert torch.equal(torch.as_tensor(first.logits), torch.as_tensor(second.logits))
    for token, row in zip((3, 4), again, strict=True):
        assert torch.equal(torch.as_tensor(decoder.step([2], [[token]]).logits), torch.as_tensor(row))


@needs_kernels
def test_the_next_process_reads_the_codes_that_this_one_found(
    model: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [1, 2, 3]
    found = CpuDecoder(weights_of(model), blocks=BlockFile(checkpoint)).prefill(0, prompt)
    assert sorted(path.suffix for path in checkpoint.iterdir()) == [".json", ".safetensors"]

    def refuse(*_: Any) -> Any:
        raise AssertionError("the packed weights are at hand")

    monkeypatch.setattr("llms.decoders.cpu.weights.four_bit_codes", refuse)
    again = CpuDecoder(weights_of(model), blocks=BlockFile(checkpoint)).prefill(0, prompt)
    assert torch.equal(found, again)


HARMS = ["cut", "empty", "noise", "other weights", "another layout", "folder"]


@needs_kernels
@pytest.mark.parametrize("harm", HARMS)
def test_codes_of_no_use_are_found_anew(model: Any, checkpoint: Path, harm: str) -> None:
    def logits() -> torch.Tensor:
        return CpuDecoder(weights_of(model), blocks=BlockFile(checkpoint)).prefill(0, [1, 2, 3])

    expected, file = logits(), BlockFile(checkpoint)
    whole = file.path.read_bytes()
    if harm == "other weights":
        (checkpoint / "manifest.json").write_text('{"files": {"a": 1}}')
    elif harm == "another layout":
        file._metadata["layout"] = "9.9"
        file.write({"0.qkv": torch.zeros(1)})
    elif harm == "folder":
        file.path.unlink()
        file.path.mkdir()
    else:
        file.path.write_bytes({"cut": whole[:-100], "empty": b"", "noise": b"\x07" * 999}[harm])
    assert BlockFile(checkpoint).read() is None
    assert torch.equal(logits(), expected)
    assert harm == "folder" or BlockFile(checkpoint).read() is not None
    assert not list(checkpoint.glob("*.partial"))


@needs_kernels
def test_a_folder_that_is_gone_or_full_costs_nothing_but_the_time(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = CpuDecoder(weights_of(model), blocks=BlockFile(tmp_path / "gone"))
    assert decoder.prefill(0, [1, 2, 3]).isfinite().all() and not list(tmp_path.iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llms.decoders.cpu.weights.save_file", full)
    decoder = CpuDecoder(weights_of(model), blocks=BlockFile(tmp_path))
    assert decoder.prefill(0, [1, 2, 3]).isfinite().all()
    assert not list(tmp_path.iterdir())


@needs_kernels
def test_the_embedded_model_s_codes_lie_in_the_cache(embedded_cache: Path) -> None:
    from llms.models.checkpoint import damage

    loaded = load(LoadSettings(model="smollm2-135m", device="cpu", cache_dir=embedded_cache))
    make_decoder(loaded).prefill(0, [1, 2, 3])
    assert loaded.checkpoint.folder is not None
    assert BlockFile(loaded.checkpoint.folder).read() is not None
    assert damage(loaded.checkpoint.folder) is None


@needs_kernels
@pytest.mark.parametrize("first", ["the base", "the adapter"])
def test_a_merged_adapter_neither_reads_nor_writes_the_base_s_packed_weights(
    tmp_path: Path, first: str
) -> None:
    gguf = tiny_gguf(tmp_path / "tiny.gguf", tiny_model(head_dim=32))
    adapter = lora(tmp_path / "lora", str(gguf), head_dim=32)
    settings = LoadSettings(model=str(gguf), device="cpu", cache_dir=tmp_path / "cache")
    merging = replace(settings, adapter=adapter, merge_adapter=True)
    found = {}
    for one in (settings, merging) if first == "the base" else (merging, settings):
        loaded = load(one)
        decoder = make_decoder(loaded)
        assert isinstance(decoder, CpuDecoder)
        found[one is merging] = decoder.prefill(0, [1, 2, 3])
        exact = ReferenceDecoder(loaded.model).prefill(0, [1, 2, 3])
        assert (found[one is merging] - exact).norm() <= 0.02 * exact.norm()
    assert (found[True] - found[False]).norm() > 0.05 * found[False].norm()


@needs_kernels
def test_the_plan_of_a_merged_adapter_counts_weights_that_no_kept_file_replaces(tmp_path: Path) -> None:
    gguf = tiny_gguf(tmp_path / "tiny.gguf", tiny_model(head_dim=32))
    adapter = lora(tmp_path / "lora", str(gguf), head_dim=32)
    folder = converted(gguf, tmp_path / "cache")
    base = LoadSettings(model=str(folder), device="cpu", dtype="bfloat16", quantization="none")
    checkpoint = Checkpoint.open(folder)
    before = memory(checkpoint, base, 256).overhead
    (folder / "blocks.safetensors").write_bytes(b"x")
    kept = memory(checkpoint, base, 256).overhead
    merged = memory(checkpoint, replace(base, adapter=adapter, merge_adapter=True), 256).overhead
    layers = sum(header.elements for header in checkpoint.linears)
    assert kept < before < merged
    assert merged - kept >= 2 * layers


def test_a_file_of_version_0_1_is_read(checkpoint: Path) -> None:
    """Its name and its metadata have not changed since."""
    digest = hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()
    blocks = torch.arange(320, dtype=torch.int64).to(torch.uint8).view(1, 1, 320)
    file = checkpoint / "blocks.safetensors"
    save_file({"head": blocks}, file, metadata={"of": digest, "layout": "1"})
    found = BlockFile(checkpoint).read()
    assert found is not None and torch.equal(found["head"], blocks)
