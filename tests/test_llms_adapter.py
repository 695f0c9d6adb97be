"""PEFT adapters on top of a model: loaded, merged, and refused if they belong to another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

from llms.errors import AdapterMismatch, DamagedCheckpoint, UnsupportedModel
from llms.models.adapter import CONFIG, apply_adapter
from llms.models.catalog import resolve
from llms.models.load import LoadedModel, LoadSettings, adopt, load

TOKENS = torch.tensor([[5, 6, 7, 8]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "base")


def lora(folder: Path, base: str, **changes: Any) -> Path:
    """Save a LoRA adapter with random weights on both sides, so that it changes every output."""
    model = tiny_model(**changes)
    settings = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = get_peft_model(model, settings)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    config = folder / CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": base}))
    return folder


def with_adapter(base: Path, adapter: Path, **settings: Any) -> LoadedModel:
    return load(LoadSettings(model=str(base), device="cpu", dtype="float32", adapter=adapter, **settings))


def test_an_adapter_changes_the_output_and_merged_it_computes_the_same(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", str(base))
    plain = logits(load(LoadSettings(model=str(base), device="cpu", dtype="float32")).model)
    adapted = with_adapter(base, adapter)
    merged = with_adapter(base, adapter, merge_adapter=True)
    assert type(merged.model).__name__ == "MistralForCausalLM"
    assert not torch.allclose(logits(adapted.model), plain, atol=1e-3)
    assert torch.allclose(logits(adapted.model), logits(merged.model), atol=1e-4)


def test_an_adapter_sits_on_nf4_weights(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", str(base))
    adapted = with_adapter(base, adapter, quantization="nf4")
    assert adapted.quantization == "nf4"
    assert bool(logits(adapted.model).isfinite().all())


def test_a_peft_model_that_is_loaded_already_is_described(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = PeftModel.from_pretrained(tiny_model(), str(lora(tmp_path / "lora", str(base))))
    assert adopt(model, tiny_tokenizer()).window == 256


def test_an_adapter_of_other_sizes_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", "somewhere/else", hidden_size=128, head_dim=32)
    with pytest.raises(AdapterMismatch, match=r"64.*128"):
        with_adapter(base, adapter)


def test_an_adapter_of_a_deeper_model_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", "somewhere/else", num_hidden_layers=3)
    with pytest.raises(AdapterMismatch, match=r"layers\.2"):
        with_adapter(base, adapter)


def test_an_adapter_for_another_catalog_model_is_refused_by_name(tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", "mistralai/Mistral-7B-Instruct-v0.2")
    with pytest.raises(AdapterMismatch, match=r'model="mistral-7b-v0\.2"'):
        apply_adapter(tiny_model(), adapter, resolve("mistral-7b"))


def test_an_adapter_for_another_hub_model_is_refused_by_name(tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", "owner/one")
    with pytest.raises(AdapterMismatch, match="owner/one"):
        apply_adapter(tiny_model(), adapter, resolve("owner/two"))


@pytest.mark.parametrize("gone", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(base: Path, tmp_path: Path, gone: str) -> None:
    adapter = lora(tmp_path / "lora", str(base))
    (adapter / gone).unlink()
    with pytest.raises(DamagedCheckpoint, match=gone):
        with_adapter(base, adapter)


def test_a_pickled_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", str(base))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsupportedModel, match="pickle"):
        with_adapter(base, adapter)


def test_truncated_adapter_weights_are_refused(base: Path, tmp_path: Path) -> None:
    weights = lora(tmp_path / "lora", str(base)) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DamagedCheckpoint, match="adapter_model"):
        with_adapter(base, weights.parent)


def test_an_adapter_that_asks_for_code_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora", str(base))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}})
    )
    with pytest.raises(UnsupportedModel, match="asks for code"):
        with_adapter(base, adapter)
