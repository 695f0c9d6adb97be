"""A checkpoint read without transformers gives the same weights and tokens, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_sets import needs_kernels
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from llms.decoders.cpu.decoder import CpuDecoder
from llms.errors import DamagedCheckpoint
from llms.models.checkpoint import Checkpoint
from llms.models.load import LoadSettings, load, make_decoder
from llms.models.weights import has_plain_layout, read_weights, weights_of
from llms.quiet import quiet

PROMPT = [5, 6, 7, 300, 8, 9, 10, 11, 12]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny", head_dim=32)  # which the CPU decoder's kernels support


def spec(model: Path, **settings: Any) -> LoadSettings:
    return LoadSettings(**{"model": str(model), "device": "cpu", **settings})


def reconfigure(checkpoint: Path, *removed: str, **changes: Any) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in removed}))


@needs_kernels
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"sliding_window": 5}, {"num_key_value_heads": 4}, {"head_dim": 64}],
)
def test_logits_have_the_bits_of_those_over_transformers_model(
    tmp_path: Path, changes: dict[str, Any], stored: torch.dtype
) -> None:
    loaded = load(spec(tiny_checkpoint(tmp_path / "tiny", **({"head_dim": 32} | changes), dtype=stored)))
    assert not loaded.is_pretrained
    whole = CpuDecoder(weights_of(loaded.model), window=loaded.window)
    ours = make_decoder(loaded)
    assert isinstance(ours, CpuDecoder)
    assert torch.equal(ours.prefill(0, PROMPT), whole.prefill(0, PROMPT))
    for token in (5, 80, 6):
        assert torch.equal(ours.step([0], [[token]]).logits, whole.step([0], [[token]]).logits)


def test_weights_are_those_that_transformers_loads(checkpoint: Path) -> None:
    for stored in (torch.float32, torch.float16, torch.bfloat16):
        weights = checkpoint / "model.safetensors"
        tensors = {name: tensor.to(stored) for name, tensor in load_file(weights).items()}
        tensors["model.norm.weight"] = tensors["model.norm.weight"].float()  # one that differs from the rest
        save_file(tensors, weights, metadata={"format": "pt"})
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            loaded = load(spec(checkpoint, dtype=name, decoder="reference"))
            ours, theirs = read_weights(Checkpoint.open(checkpoint), name), weights_of(loaded.model)
            assert {tensor.dtype for tensor in ours.tensors.values()} == {loaded.dtype} == {dtype}
            assert ours.parameters == theirs.parameters == loaded.parameters
            assert ours.tensors.keys() == theirs.tensors.keys()
            assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
            assert all(map(torch.equal, ours.rotary(64), theirs.rotary(64)))


@needs_kernels
def test_llama_and_an_older_configuration_are_read_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
    )
    folder = tiny_checkpoint(tmp_path / "llama")  # for its tokenizer
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    for older in (False, True):
        if older:
            reconfigure(folder, "rope_parameters", rope_theta=50_000.0, rope_scaling=None, head_dim=None)
        loaded = load(spec(folder))
        assert not loaded.is_pretrained
        assert type(loaded.model).__name__ == "LlamaForCausalLM"
        whole = CpuDecoder(weights_of(loaded.model), window=loaded.window)
        assert torch.equal(make_decoder(loaded).prefill(0, PROMPT), whole.prefill(0, PROMPT))


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 500.0},
        {"partial_rotary_factor": 0.5},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"hidden_act": "gelu"},
        {"num_hidden_layers": 3},
        {"intermediate_size": 96},
        {"vocab_size": 321},
        {"tie_word_embeddings": True},
        {"head_dim": 15},
        {"architectures": ["LlamaForCausalLM"]},
        {"model_type": "ministral"},
        {"hidden_size": "64"},
        {"num_key_value_heads": 3},
        {"quantization_config": {"load_in_4bit": True}},
    ],
)
def test_what_is_not_exactly_the_layout_is_left_to_transformers(
    checkpoint: Path, changes: dict[str, Any]
) -> None:
    assert has_plain_layout(Checkpoint.open(checkpoint))
    reconfigure(checkpoint, **changes)
    assert not has_plain_layout(Checkpoint.open(checkpoint))


@pytest.mark.parametrize(
    "name",
    [
        "eos_token_id",
        "sliding_window",
        "rms_norm_eps",
        "num_key_value_heads",
        "hidden_act",
        "rope_parameters",
    ],
)
def test_what_transformers_would_fill_in_is_left_to_it(checkpoint: Path, name: str) -> None:
    reconfigure(checkpoint, name)
    assert not has_plain_layout(Checkpoint.open(checkpoint))


@pytest.mark.parametrize("change", ["missing", "more", "shape", "type"])
def test_other_tensors_than_the_layout_s_are_left_to_transformers(checkpoint: Path, change: str) -> None:
    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    if change == "missing":
        del tensors["model.norm.weight"]
    elif change == "more":
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
    elif change == "shape":
        tensors["model.norm.weight"] = torch.ones(32)
    else:
        tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int8)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert not has_plain_layout(Checkpoint.open(checkpoint))


def test_a_header_that_safetensors_refuses_ends_in_the_usual_error(checkpoint: Path) -> None:
    """Two tensors over the same bytes: shapes and size are right, so only reading the bytes shows it."""
    weights = checkpoint / "model.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first, second = (f"model.layers.{i}.input_layernorm.weight" for i in (0, 1))
    header[first]["data_offsets"] = header[second]["data_offsets"]
    changed = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    weights.write_bytes(data[:8] + changed[:length] + data[8 + length :])
    assert len(changed) <= length
    assert has_plain_layout(Checkpoint.open(checkpoint))
    with pytest.raises(DamagedCheckpoint, match="do not load"):
        load(spec(checkpoint))


@needs_kernels
def test_adapters_and_other_decoders_get_transformers_model(checkpoint: Path) -> None:
    assert not load(spec(checkpoint)).is_pretrained
    assert load(spec(checkpoint, decoder="reference")).is_pretrained
    loaded = load(spec(checkpoint))
    reference = make_decoder(loaded, kind="reference")
    assert "reference" in reference.describe()
    assert torch.allclose(make_decoder(loaded).prefill(0, PROMPT), reference.prefill(0, PROMPT), atol=1e-2)


@needs_kernels
def test_transformers_model_is_made_once_and_when_it_is_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def read_model(checkpoint: Checkpoint, **how: Any) -> Any:
        made.append(how)
        return object()

    monkeypatch.setattr("llms.models.pretrained.read_model", read_model)
    loaded = load(spec(checkpoint))
    assert made == []
    assert loaded.model is loaded.model
    assert made == [{"quantization": "none", "dtype": "bfloat16", "device": "cpu"}]


@pytest.mark.parametrize("ends", [None, 7, [7, 8]])
def test_ends_of_a_text_are_the_generation_configuration_s_too(checkpoint: Path, ends: Any) -> None:
    from llms.runtime import Runtime

    path = checkpoint / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    light, whole = (Runtime(load(spec(checkpoint, decoder=kind))) for kind in ("auto", "reference"))
    assert light.end_ids == whole.end_ids
    path.unlink()
    assert Runtime(load(spec(checkpoint))).end_ids == {2}


@needs_kernels
def test_the_embedded_model_is_read_so_and_still_is_a_mistral(embedded_cache: Path) -> None:
    embedded = load(LoadSettings(model="smollm2-135m", device="cpu", cache_dir=embedded_cache))
    assert not embedded.is_pretrained
    assert type(embedded.model).__name__ == "MistralForCausalLM"


@needs_kernels
def test_an_answer_of_the_embedded_model_imports_no_transformers(embedded_cache: Path) -> None:
    code = (
        "import sys\n"
        "from llms import ChatLocal\n"
        "how = {'temperature': 0, 'max_tokens': 8, 'cache_dir': sys.argv[1]}\n"
        "chat = ChatLocal(model='smollm2-135m', device='cpu', **how)\n"
        "text = chat.invoke('What is the capital of France?').text\n"
        "chat.score('The capital of France is', [' Paris', ' Rome'])\n"
        "assert 'Paris' in text, text\n"
        "heavy = ('transformers', 'huggingface_hub', 'accelerate', 'bitsandbytes', 'scipy', 'sklearn')\n"
        "print([name for name in (*heavy, 'sympy', 'torch._dynamo', 'pandas') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(embedded_cache)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
