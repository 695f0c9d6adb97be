"""Weights in 4 bits: the decoder over them, and the file beside the checkpoint that keeps what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_contract import DecoderContract
from gguf import quants
from gguf.constants import GGMLQuantizationType
from lean_sets import runs
from tiny_models import tiny_model, tiny_tokenizer
from torch import nn

from llms.decoders.base import Decoder
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.lean.codes import CodeFile
from llms.lean.decoder import LeanDecoder


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


class TestLeanInFourBits(DecoderContract):
    """The contract with weights in 4 bits and bf16: its logits are about 0.5, of which bf16 keeps 0.002."""

    tolerance = 0.01
    machine = False

    @pytest.fixture
    def model(self, model: Any) -> Any:
        return model

    @pytest.fixture
    def tokenizer(self) -> Any:
        return tiny_tokenizer()

    @pytest.fixture
    def decoder(self, model: Any) -> Decoder:
        return LeanDecoder(model, max_slots=16, machine=self.machine)

    def test_the_same_seed_draws_the_same_in_any_batch(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        """In bf16 only the same batch gives the same bits: of tokens nearly alike, another may be drawn."""
        how = [Sampling(temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4)]
        drawn = []
        for _ in range(2):
            tokens = decoder.step([0, 1, 2, 3], prompts, how).tokens
            assert tokens is not None
            drawn.append(tokens.tolist())
            for slot in range(4):
                decoder.free(slot)
        assert drawn[0] == drawn[1]


@pytest.fixture(params=[False, True], ids=["operators", "machine code"])
def machine(request: pytest.FixtureRequest) -> bool:
    """Both ways that 4-bit weights are read, each with a file of its own."""
    if request.param and not runs():
        pytest.skip("no C++ compiler, or a CPU without AVX2")
    return bool(request.param)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    return tmp_path


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_batches_of_any_size_give_the_reference_s_logits(model: Any, machine: bool, count: int) -> None:
    lean, reference = LeanDecoder(model, max_slots=8, machine=machine), ReferenceDecoder(model, max_slots=8)
    assert lean.four_bit
    slots, prompts = list(range(count)), [[(5 * i + j) % 250 for i in range(3 + j)] for j in range(count)]
    for tokens in (prompts, [[7 + slot] for slot in slots], [[9, 11] for _ in slots]):
        found = lean.step(slots, tokens, all_logits=True).logits
        expected = reference.step(slots, tokens, all_logits=True).logits
        for row, other in zip(found, expected, strict=True):
            assert (row - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize("length", [1, 4, 5, 6, 40])
def test_a_prompt_cached_but_for_its_last_token_goes_on_with_the_same_bits(
    model: Any, machine: bool, length: int
) -> None:
    decoder, prompt = LeanDecoder(model, max_slots=4, machine=machine), [(5 * i) % 250 for i in range(length)]
    first = decoder.step([0], [prompt], [Sampling()])
    again = [decoder.step([0], [[token]]).logits for token in (3, 4)]
    decoder.fork(0, 2, length - 1)
    assert decoder.length(2) == length - 1
    second = decoder.step([2], [prompt[-1:]], [Sampling()])
    assert torch.equal(torch.as_tensor(first.logits), torch.as_tensor(second.logits))
    for token, row in zip((3, 4), again, strict=True):
        assert torch.equal(torch.as_tensor(decoder.step([2], [[token]]).logits), torch.as_tensor(row))


def test_the_next_process_reads_the_codes_that_this_one_found(
    model: Any, machine: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [1, 2, 3]
    found = LeanDecoder(model, codes=CodeFile(checkpoint), machine=machine).prefill(0, prompt)
    assert sorted(path.suffix for path in checkpoint.iterdir()) == [".json", ".safetensors"]

    def refuse(*_: Any) -> Any:
        raise AssertionError("the codes are at hand")

    monkeypatch.setattr("llms.lean.weights.lattice", refuse)
    monkeypatch.setattr("llms.lean.pack.lattice", refuse)
    again = LeanDecoder(model, codes=CodeFile(checkpoint), four_bit=True, machine=machine).prefill(0, prompt)
    assert torch.equal(found, again)


HARMS = ["cut", "empty", "noise", "other weights", "another layout", "folder"]


@pytest.mark.parametrize("harm", HARMS)
def test_codes_of_no_use_are_found_anew(model: Any, machine: bool, checkpoint: Path, harm: str) -> None:
    def logits() -> torch.Tensor:
        return LeanDecoder(model, codes=CodeFile(checkpoint), machine=machine).prefill(0, [1, 2, 3])

    expected, file = logits(), CodeFile(checkpoint, blocks=machine)
    whole = file.path.read_bytes()
    if harm == "other weights":
        (checkpoint / "manifest.json").write_text('{"files": {"a": 1}}')
    elif harm == "another layout":
        file._facts["layout" if machine else "torch"] = "9.9"
        file.write({"0.qkv": torch.zeros(1)})
    elif harm == "folder":
        file.path.unlink()
        file.path.mkdir()
    else:
        file.path.write_bytes({"cut": whole[:-100], "empty": b"", "noise": b"\x07" * 999}[harm])
    assert CodeFile(checkpoint, blocks=machine).read() is None
    assert torch.equal(logits(), expected)
    assert harm == "folder" or CodeFile(checkpoint, blocks=machine).read() is not None
    assert not list(checkpoint.glob("*.partial"))


def test_a_folder_that_is_gone_or_full_costs_nothing_but_the_time(
    model: Any, machine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = LeanDecoder(model, codes=CodeFile(tmp_path / "gone"), machine=machine)
    assert decoder.prefill(0, [1, 2, 3]).isfinite().all() and not list(tmp_path.iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llms.lean.codes.save_file", full)
    decoder = LeanDecoder(model, codes=CodeFile(tmp_path), machine=machine)
    assert decoder.prefill(0, [1, 2, 3]).isfinite().all()
    assert not list(tmp_path.iterdir())


def test_the_embedded_model_s_codes_lie_in_the_cache(embedded_cache: Path) -> None:
    from llms.models.checkpoint import damage
    from llms.models.load import LoadSpec, load, make_decoder

    loaded = load(LoadSpec(model="smollm2-135m", device="cpu", cache_dir=embedded_cache))
    make_decoder(loaded).prefill(0, [1, 2, 3])
    assert loaded.folder is not None
    assert CodeFile(loaded.folder, blocks=runs()).read() is not None
    assert damage(loaded.folder) is None
