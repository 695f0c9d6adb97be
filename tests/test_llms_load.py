"""Loading from every source and in every quantization, on tiny models and on the embedded one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from tiny_models import tiny_checkpoint, tiny_gguf, tiny_model, tiny_tokenizer

from llms.errors import (
    BadRequest,
    UnknownModel,
)
from llms.models.checkpoint import Checkpoint
from llms.models.load import LoadedModel, LoadSettings, adopt, load, make_decoder
from llms.quiet import quiet

PROMPT = "The capital of France is"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def spec(model: Path | str, **settings: Any) -> LoadSettings:
    return LoadSettings(**{"model": str(model), "device": "cpu", **settings})


def logits(loaded: LoadedModel, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        last: torch.Tensor = loaded.model(torch.tensor([tokens])).logits[0, -1].float()
    return last


def test_a_hub_model_that_was_not_pulled_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownModel, match=r"\(14\.5 GB\) with download=True; run `llms\.models\.pull\(\"mistral-7b\"\)`"
    ):
        load(spec("mistral-7b", cache_dir=tmp_path))


def test_a_folder_loads_with_every_setting(checkpoint: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        loaded = load(spec(checkpoint, dtype=dtype))
        assert loaded.dtype == getattr(torch, dtype)
        assert (loaded.quantization, loaded.window, loaded.parameters) == (
            "none",
            256,
            Checkpoint.open(checkpoint).parameters,
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


def test_without_a_chat_template_the_model_loads_and_says_so(tmp_path: Path) -> None:
    assert load(spec(tiny_checkpoint(tmp_path / "tiny", template=None))).chat_template is False


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


def test_the_embedded_model_knows_where_paris_is(embedded: LoadedModel) -> None:
    assert type(embedded.model).__name__ == "MistralForCausalLM"
    tokens = embedded.tokenizer(PROMPT)["input_ids"]
    best = int(logits(embedded, tokens).argmax())
    assert embedded.tokenizer.decode([best]).strip() == "Paris"
    assert embedded.tokenizer.special_tokens_map["eos_token"] == "<|im_end|>"
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
    tokens = torch.tensor([ours.tokenizer(PROMPT)["input_ids"]])
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
        "from llms.models.load import load, LoadSettings\n"
        "cache = pathlib.Path(sys.argv[1])\n"
        "for quantization in ('none', 'nf4'):\n"
        "    print(load(LoadSettings(model='smollm2-135m', quantization=quantization, device='cpu',\n"
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
        "import sys, llms.models.catalog, llms.models.embedded, llms.models.load, llms.models.hub\n"
        "import llms.models.adapter, llms.models.gpu, llms.models.weights, llms.models.pretrained\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_carries_the_call_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        load(spec("mistral-7b", cache_dir=tmp_path))
    assert caught.value.hint == 'llms.models.pull("mistral-7b")'
    assert str(caught.value).endswith(f"; run `{caught.value.hint}`")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.hint) == (UnknownModel, str(caught.value), caught.value.hint)
