"""Loading: what each source, quantization and damage leads to, on tiny models and on the embedded one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from tiny_models import tiny_checkpoint, tiny_gguf, tiny_model, tiny_tokenizer

from llms import choose, gpu
from llms.catalog import CATALOG, find, names, resolve
from llms.errors import (
    BadRequest,
    DamagedCheckpoint,
    GPURequired,
    NotEnoughMemory,
    UnknownModel,
    UnsupportedModel,
)
from llms.facts import read
from llms.load import LoadedModel, LoadSpec, adopt, load, make_decoder
from llms.quiet import quiet

PROMPT = "The capital of France is"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def spec(model: Path | str, **settings: Any) -> LoadSpec:
    return LoadSpec(**{"model": str(model), "device": "cpu", **settings})


def logits(loaded: LoadedModel, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        last: torch.Tensor = loaded.model(torch.tensor([tokens])).logits[0, -1].float()
    return last


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
    with pytest.raises(UnknownModel, match=r"models list"):
        resolve(name)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'mistral-7b'"):
        resolve("mistral7b")


def test_a_hub_model_that_was_not_pulled_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"agent models pull mistral-7b` \(14\.5 GB\)"):
        load(spec("mistral-7b", cache_dir=tmp_path))


def test_a_folder_loads_with_every_setting(checkpoint: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        loaded = load(spec(checkpoint, dtype=dtype))
        assert loaded.dtype == getattr(torch, dtype)
        assert (loaded.quantization, loaded.window, loaded.parameters) == (
            "none",
            256,
            read(checkpoint).parameters,
        )
        assert not loaded.model.training
    assert load(spec(checkpoint, window=100)).window == 100


def test_a_gguf_computes_what_its_model_does(tmp_path: Path) -> None:
    model = tiny_model()
    gguf = tiny_gguf(tmp_path / "model.gguf", model)
    lines: list[str] = []
    loaded = load(spec(gguf, dtype="float32", cache_dir=tmp_path / "cache", notify=lines.append))
    assert any("converting model.gguf" in line for line in lines)
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    # The checkpoint keeps bfloat16: 8 bits of mantissa through two layers.
    assert torch.allclose(logits(loaded, [5, 6, 7]), expected, atol=0.02)
    lines.clear()
    load(spec(gguf, cache_dir=tmp_path / "cache", notify=lines.append))
    assert lines == [], "converted once"


def test_a_quantized_gguf_is_dequantized(tmp_path: Path) -> None:
    model = tiny_model()
    gguf = tiny_gguf(tmp_path / "model.gguf", model, kind=GGMLQuantizationType.Q8_0)
    loaded = load(spec(gguf, dtype="float32", cache_dir=tmp_path / "cache"))
    assert loaded.quantization == "none"
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    assert torch.allclose(logits(loaded, [5, 6, 7]), expected, atol=0.05)


def test_a_gguf_tokenizer_cuts_digits_apart_as_llama_cpp_does(tmp_path: Path) -> None:
    loaded = load(spec(tiny_gguf(tmp_path / "model.gguf"), cache_dir=tmp_path / "cache"))
    pieces = loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x =  42")
    assert [piece for piece, _ in pieces] == ["x", "Ġ=", "ĠĠ", "4", "2"]


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


def test_without_a_chat_template_the_model_loads_and_says_so(tmp_path: Path) -> None:
    assert load(spec(tiny_checkpoint(tmp_path / "tiny", template=None))).chat_template is False


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
    monkeypatch.setattr("llms.memory.free_bytes", lambda _device: 100_000)
    with pytest.raises(NotEnoughMemory, match=r"needs .* GB on cpu .* found 0\.00 GB free"):
        load(spec(checkpoint))


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:7"])
def test_a_gpu_that_is_required_and_missing_is_refused(
    checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "gpus", list)
    with pytest.raises(GPURequired, match="agent doctor"):
        load(spec(checkpoint, device=device, require_gpu=True))


def test_auto_without_a_gpu_takes_the_embedded_model_and_says_why(embedded_cache: Path) -> None:
    lines: list[str] = []
    loaded = load(LoadSpec(device="cpu", cache_dir=embedded_cache, notify=lines.append))
    assert (loaded.name, loaded.quantization, str(loaded.device)) == ("smollm2-135m", "none", "cpu")
    assert len(lines) == 1
    assert "smollm2-135m (bfloat16) on cpu" in lines[0]
    assert "agent models pull mistral-7b" in lines[0]


@pytest.mark.parametrize(
    ("free_gb", "in_cache", "model", "word"),
    [
        (24.0, True, "mistral-7b", ""),
        (24.0, False, "smollm2-135m", "agent models pull mistral-7b"),
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
    choice = choose.choose("auto", "auto", require_gpu=False, cache=tmp_path)
    assert choice.model == model
    assert word in f"{choice.why} {choice.better}"
    assert bool(choice.why) == bool(word)


def test_auto_quantizes_from_a_billion_parameters_on() -> None:
    assert choose.quantization("auto", parameters=134_515_008, stored=None) == "none"
    assert choose.quantization("auto", parameters=7_248_023_552, stored=None) == "nf4"
    assert choose.quantization("nf4", parameters=134_515_008, stored=None) == "nf4"
    assert choose.quantization("auto", parameters=1, stored="fp4") == "fp4"
    with pytest.raises(BadRequest, match="fp4"):
        choose.quantization("nf4", parameters=1, stored="fp4")


def test_a_model_that_is_loaded_already_is_described() -> None:
    model = tiny_model(sliding_window=32)
    loaded = adopt(model, tiny_tokenizer(), name="mine", window=64)
    assert (loaded.name, loaded.window, loaded.quantization, loaded.sliding_window) == (
        "mine",
        64,
        "none",
        32,
    )
    decoder = make_decoder(loaded, max_slots=2)
    assert (decoder.window, decoder.max_slots, decoder.vocab_size) == (64, 2, 320)
    with pytest.raises(BadRequest, match="256"):
        adopt(model, tiny_tokenizer(), window=1_000)


def test_a_decoder_of_no_known_kind_is_refused(checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match="reference"):
        make_decoder(load(spec(checkpoint)), kind="turbo")


def test_equal_specs_are_one_key_whatever_they_notify() -> None:
    first, second = LoadSpec(notify=print), LoadSpec(progress=lambda *_: None)
    assert first == second and hash(first) == hash(second)
    assert first != LoadSpec(quantization="nf4")


def test_the_embedded_model_knows_where_paris_is(embedded: LoadedModel) -> None:
    assert type(embedded.model).__name__ == "MistralForCausalLM"
    tokens = embedded.tokenizer(PROMPT)["input_ids"]
    best = int(logits(embedded, tokens).argmax())
    assert embedded.tokenizer.decode([best]).strip() == "Paris"
    assert embedded.tokenizer.eos_token == "<|im_end|>"
    assert embedded.parameters == 134_515_008


def test_nf4_gives_the_logits_of_from_pretrained_with_the_recipe_of_the_paper(embedded_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    recipe = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(
            str(embedded_dir), quantization_config=recipe, device_map="cpu", dtype=torch.bfloat16
        )
    ours = load(spec(embedded_dir, quantization="nf4", keep_quantized=False))
    tokens = ours.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(ours.model(tokens).logits, plain(tokens).logits)


def test_loading_opens_no_socket_and_runs_without_a_network(embedded_cache: Path, tmp_path: Path) -> None:
    """A child in which every socket call raises, loopback too, loads plain and in NF4."""
    code = (
        "import sys, pathlib\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.') and event != 'socket.gethostname':\n"
        "        raise SystemExit(f'socket: {event} {args}')\n"
        "sys.addaudithook(hook)\n"
        "from llms.load import load, LoadSpec\n"
        "cache = pathlib.Path(sys.argv[1])\n"
        "for quantization in ('none', 'nf4'):\n"
        "    print(load(LoadSpec(model='smollm2-135m', quantization=quantization, device='cpu',\n"
        "                        cache_dir=cache)).quantization)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(embedded_cache)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HF_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["none", "nf4"]
    assert done.stderr == "", "other libraries' bars and notices stay away"


def test_importing_the_room_s_front_doors_imports_no_torch() -> None:
    code = (
        "import sys, llms.catalog, llms.fetch, llms.load, llms.hub, llms.gpu, llms.quantized, llms.adapter\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
