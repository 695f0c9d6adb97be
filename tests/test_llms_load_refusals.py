"""Loading refuses checkpoints that are damaged, unsupported or need code of their own, with the reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType
from tiny_models import tiny_checkpoint, tiny_gguf

from llms.errors import (
    DamagedCheckpoint,
    UnsupportedModel,
)
from llms.models.load import LoadSettings, load


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def spec(model: Path | str, **settings: Any) -> LoadSettings:
    return LoadSettings(**{"model": str(model), "device": "cpu", **settings})


@pytest.mark.parametrize("keep", [0, 3, 40, 2_000, -1_000])
def test_a_gguf_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    gguf = tiny_gguf(tmp_path / "model.gguf")
    whole = gguf.read_bytes()
    gguf.write_bytes(whole[:keep] if keep >= 0 else whole[: len(whole) + keep])
    cache = tmp_path / "cache"
    with pytest.raises(DamagedCheckpoint, match="cut short"):
        load(spec(gguf, cache_dir=cache))
    assert not cache.exists(), "a refused file leaves the cache as it was"


@pytest.mark.parametrize("kind", [int(GGMLQuantizationType.Q8_1), 250])
def test_a_gguf_of_an_unsupported_quantization_is_refused(tmp_path: Path, kind: int) -> None:
    gguf = tiny_gguf(tmp_path / "model.gguf", kind=GGMLQuantizationType.Q8_0)
    data = bytearray(gguf.read_bytes())
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # number of dimensions, two dimensions, then the type
    assert int.from_bytes(data[at : at + 4], "little") == GGMLQuantizationType.Q8_0
    data[at : at + 4] = kind.to_bytes(4, "little")
    gguf.write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"Q8_1|250"):
        load(spec(gguf, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("cut", [4, 100, -10])
def test_truncated_weights_are_found_by_their_size(checkpoint: Path, cut: int) -> None:
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:cut] if cut > 0 else whole[: len(whole) + cut])
    with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
        load(spec(checkpoint))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=name):
        load(spec(checkpoint))


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DamagedCheckpoint, match="model-00001-of-00001"):
        load(spec(checkpoint))


def test_an_index_that_points_outside_the_folder_is_refused(checkpoint: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../secret.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DamagedCheckpoint, match="outside"):
        load(spec(checkpoint))


def test_a_missing_tensor_is_never_filled_with_random_numbers(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(DamagedCheckpoint, match="1 missing"):
        load(spec(checkpoint))


def test_a_tensor_of_another_shape_is_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(DamagedCheckpoint):
        load(spec(checkpoint))


def test_pickles_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="pickles"):
        load(spec(checkpoint))


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"auto_map": {"AutoConfig": "evil--repo--evil.Config"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}),
        ("config.json", {"_attn_implementation": "evil/kernel:run"}),
        ("config.json", {"trust_remote_code": True}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("generation_config.json", {"custom_generate": "evil/generate"}),
    ],
)
def test_a_configuration_that_asks_for_code_is_refused_before_it_is_imported(
    checkpoint: Path, file: str, entry: dict[str, Any]
) -> None:
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **entry}))
    trap = checkpoint / "evil.py"
    trap.write_text(
        f"from pathlib import Path\nPath({str(checkpoint / 'ran')!r}).touch()\nraise SystemExit\n"
    )
    with pytest.raises(UnsupportedModel, match="asks for code"):
        load(spec(checkpoint))
    assert not (checkpoint / "ran").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "name", ["T5ForConditionalGeneration", "BertModel", "NoSuchForCausalLM", "os.systemForCausalLM"]
)
def test_an_unsupported_architecture_is_named(checkpoint: Path, name: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(UnsupportedModel, match=name):
        load(spec(checkpoint))


def test_a_foreign_quantization_is_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="gptq"):
        load(spec(checkpoint))


def test_a_folder_without_a_tokenizer_is_refused(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        load(spec(checkpoint))


def test_a_tokenizer_that_does_not_parse_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        load(spec(checkpoint))
