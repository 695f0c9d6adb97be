"""4-bit checkpoints are made once, found again, made anew if damaged, and never block loading."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint

from llms.errors import NoSpace, QuantizationUnavailable
from llms.models import checkpoint, pretrained
from llms.models.load import LoadedModel, LoadSettings, load

TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def nf4(folder: Path, cache: Path, lines: list[str] | None = None, quantization: str = "nf4") -> LoadedModel:
    notify = (lines if lines is not None else []).append
    return load(
        LoadSettings(
            model=str(folder),
            quantization=quantization,
            device="cpu",
            cache_dir=cache,
            keep_quantized=True,
            notify=notify,
        )
    )


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(TOKENS).logits
    return found


def made(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "quantized").glob("*") if path.is_dir())


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_a_model_is_quantized_once_and_computes_the_same_from_its_checkpoint(
    folder: Path, tmp_path: Path, quantization: str
) -> None:
    first: list[str] = []
    second: list[str] = []
    quantized_now = nf4(folder, tmp_path, first, quantization)
    expected = logits(quantized_now)
    assert any("quantizing tiny" in line for line in first)
    read_back = nf4(folder, tmp_path, second, quantization)
    assert second == []
    assert torch.equal(logits(read_back), expected)
    assert read_back.quantization == quantization
    assert read_back.parameters == quantized_now.parameters
    assert len(made(tmp_path)) == 1


def test_other_settings_and_other_weights_are_other_checkpoints(folder: Path, tmp_path: Path) -> None:
    nf4(folder, tmp_path)
    nf4(folder, tmp_path, quantization="fp4")
    assert len(made(tmp_path)) == 2
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * 2}, folder / "model.safetensors")
    lines: list[str] = []
    nf4(folder, tmp_path, lines)
    assert any("quantizing" in line for line in lines), "changed weights are quantized again"
    assert len(made(tmp_path)) == 3


def test_another_version_of_bitsandbytes_is_another_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nf4(folder, tmp_path)
    monkeypatch.setattr("llms.models.pretrained.importlib.metadata.version", lambda _name: "9.9")
    nf4(folder, tmp_path)
    assert len(made(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["truncate", "delete", "scramble the header", "drop a tensor"])
def test_a_damaged_one_is_made_anew(folder: Path, tmp_path: Path, harm: str) -> None:
    expected = logits(nf4(folder, tmp_path))
    weights = made(tmp_path)[0] / "model.safetensors"
    data = weights.read_bytes()
    if harm == "truncate":
        weights.write_bytes(data[:-100])
    elif harm == "delete":
        weights.unlink()
    elif harm == "scramble the header":
        weights.write_bytes(
            data[:8] + b"#" + data[9:]
        )  # the size is the same, so only reading the file shows the change
    else:
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("up_proj.weight"))
        padding = tensors.pop(name)
        save_file({**tensors, "padding": padding}, weights, metadata={"format": "pt"})
        _same_size(weights, len(data))
    lines: list[str] = []
    assert torch.equal(logits(nf4(folder, tmp_path, lines)), expected)
    assert any("damaged" in line or "quantizing" in line for line in lines)
    assert checkpoint.damage(made(tmp_path)[0], hashes=True) is None


def _same_size(weights: Path, size: int) -> None:
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = length + size - len(data)
    weights.write_bytes(
        padded.to_bytes(8, "little") + data[8 : 8 + length].ljust(padded) + data[8 + length :]
    )


def test_a_disk_without_room_costs_the_checkpoint_not_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise NoSpace("no room")

    monkeypatch.setattr(pretrained, "require_space", full)
    lines: list[str] = []
    loaded = nf4(folder, tmp_path, lines)
    assert loaded.quantization == "nf4"
    assert any("not kept" in line for line in lines)
    assert made(tmp_path) == []


def test_small_models_are_not_kept_unasked(folder: Path, tmp_path: Path) -> None:
    load(LoadSettings(model=str(folder), quantization="nf4", device="cpu", cache_dir=tmp_path))
    assert made(tmp_path) == []


def test_a_folder_that_is_quantized_already_loads_as_it_is(folder: Path, tmp_path: Path) -> None:
    expected = logits(nf4(folder, tmp_path))
    stored = made(tmp_path)[0]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, stored / name)
    loaded = load(LoadSettings(model=str(stored), device="cpu", cache_dir=tmp_path / "other"))
    assert loaded.quantization == "nf4"
    assert torch.equal(logits(loaded), expected)


def test_without_bitsandbytes_the_error_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("llms.models.pretrained.importlib.metadata.version", version)
    with pytest.raises(QuantizationUnavailable, match="pip install bitsandbytes"):
        nf4(folder, tmp_path)
