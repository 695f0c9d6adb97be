"""The choice of model, device and quantization: names, settings and `auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_checkpoint

from llms.errors import (
    BadRequest,
    GPURequired,
    NotEnoughMemory,
    UnknownModel,
)
from llms.models import gpu
from llms.models import load as choose
from llms.models.catalog import CATALOG, find, names, resolve
from llms.models.load import LoadSettings, load


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def spec(model: Path | str, **settings: Any) -> LoadSettings:
    return LoadSettings(**{"model": str(model), "device": "cpu", **settings})


def test_catalog_names_are_unique_and_resolve_to_themselves() -> None:
    assert len(set(names())) == len(names())
    for entry in CATALOG:
        for name in (entry.name, *entry.aliases, entry.name.upper()):
            assert resolve(name).entry is entry
    assert resolve("mistral-7b").location == "mistralai/Mistral-7B-Instruct-v0.3"
    assert find("HuggingFaceTB/SmolLM2-135M-Instruct") is None, "the original weights, not the embedded copy"


@pytest.mark.parametrize(
    "name", ["mistral-8b", "smol lm", "./nowhere", "no/such/model", "a/b.git", "x.gguf", ""]
)
def test_an_unknown_model_names_what_there_is(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"llms\.models\.ls\(\)"):
        resolve(name)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'mistral-7b'"):
        resolve("mistral7b")


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": "nf5"},
        {"dtype": "int4"},
        {"device": "tpu"},
        {"device": "cuda:x"},
        {"window": 0},
        {"slots": 0},
        {"require_gpu": True},
    ],
)
def test_a_setting_out_of_range_is_named(checkpoint: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="expected"):
        load(spec(checkpoint, **settings))


def test_a_window_beyond_the_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(NotEnoughMemory, match="256"):
        load(spec(checkpoint, window=257))


def test_no_room_in_memory_is_refused_with_numbers_before_loading(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llms.models.memory.free_bytes", lambda _device: 100_000)
    with pytest.raises(NotEnoughMemory, match=r"needs .* GB on cpu .* found 0\.00 GB free"):
        load(spec(checkpoint))


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:7"])
def test_a_gpu_that_is_required_and_missing_is_refused(
    checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "gpus", list)
    with pytest.raises(GPURequired, match=r"llms\.diagnose\(\)"):
        load(spec(checkpoint, device=device, require_gpu=True))


def test_auto_without_a_gpu_takes_the_embedded_model_and_says_why(embedded_cache: Path) -> None:
    lines: list[str] = []
    loaded = load(LoadSettings(device="cpu", cache_dir=embedded_cache, notify=lines.append))
    assert (loaded.name, loaded.quantization, str(loaded.device)) == ("smollm2-135m", "none", "cpu")
    assert len(lines) == 1
    assert "smollm2-135m (bfloat16) on cpu" in lines[0]
    assert 'llms.models.pull("mistral-7b")' in lines[0]


@pytest.mark.parametrize(
    ("free_gb", "in_cache", "model", "word"),
    [
        (24.0, True, "mistral-7b", ""),
        (24.0, False, "smollm2-135m", 'llms.models.pull("mistral-7b")'),
        (3.0, True, "smollm2-135m", "3.0 GB free"),
        (None, True, "smollm2-135m", "no NVIDIA GPU"),
    ],
)
def test_auto_takes_mistral_only_where_gpu_and_checkpoint_are_there(
    free_gb: float | None,
    in_cache: bool,
    model: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = []
    if free_gb is not None:
        there = [gpu.Gpu(index=0, name="GPU", total=int(25e9), free=int(free_gb * 1e9), bf16=True)]
    monkeypatch.setattr(choose, "gpus", lambda: there)
    monkeypatch.setattr(choose, "why_none", lambda: "no NVIDIA GPU found")
    monkeypatch.setattr(choose, "in_cache", lambda _name, _cache: in_cache)
    chosen, fallback = choose.choose_model(LoadSettings(), tmp_path)
    assert chosen.model == model
    assert word in " ".join(fallback or ())
    assert (fallback is not None) == bool(word)


def test_auto_quantizes_from_a_billion_parameters_on() -> None:
    assert choose.choose_quantization("auto", parameters=134_515_008, stored=None) == "none"
    assert choose.choose_quantization("auto", parameters=7_248_023_552, stored=None) == "nf4"
    assert choose.choose_quantization("nf4", parameters=134_515_008, stored=None) == "nf4"
    assert choose.choose_quantization("auto", parameters=1, stored="fp4") == "fp4"
    with pytest.raises(BadRequest, match="fp4"):
        choose.choose_quantization("nf4", parameters=1, stored="fp4")


def test_equal_specs_are_one_key_whatever_they_notify() -> None:
    first, second = LoadSettings(notify=print), LoadSettings(progress=lambda *_: None)
    assert first == second and hash(first) == hash(second)
    assert first != LoadSettings(quantization="nf4")
