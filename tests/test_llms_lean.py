"""The lean decoder: the contract on the embedded model, logits against transformers, what is not taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_contract import EmbeddedContract
from tiny_models import tiny_model, tiny_tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llms.decoders.base import Decoder
from llms.decoders.reference import ReferenceDecoder
from llms.errors import UnsupportedModel
from llms.lean import plan as lean_plan
from llms.lean.decoder import LeanDecoder, why_not
from llms.models.checkpoint import read
from llms.models.load import adopt, make_decoder
from llms.models.memory import Setting, reference


class TestLeanOnTheEmbeddedModel(EmbeddedContract):
    @pytest.fixture
    def decoder(self, embedded: Any) -> Decoder:
        return LeanDecoder(embedded.model, window=512, max_slots=16)


def tiny_llama(**changes: Any) -> Any:
    """A random Llama with llama3's rotary scaling, and heads of another size than width / heads."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=256, tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


MODELS: dict[str, Any] = {
    "grouped queries": lambda: tiny_model(),
    "one key head": lambda: tiny_model(num_key_value_heads=1),
    "every head its own keys": lambda: tiny_model(num_key_value_heads=4),
    "sliding window": lambda: tiny_model(sliding_window=8),
    "llama": tiny_llama,
}


def plain(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits of one pass of transformers without a cache, fp32 [k, V]."""
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_in_every_batch_shape(name: str) -> None:
    model = MODELS[name]()
    decoder = LeanDecoder(model, max_slots=6)
    texts = [[(7 * i + 3 * j) % 96 for i in range(24 + 5 * j)] for j in range(5)]  # 3 windows and more
    expected = [plain(model, ids) for ids in texts]
    slots = [4, 0, 3, 1, 2]
    done = [0] * 5
    for counts in ((1, 9, 2, 17, 3), (5, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 3, 3, 3, 3), (1, 1, 1, 1, 1)):
        given = [ids[at : at + k] for ids, at, k in zip(texts, done, counts, strict=True)]
        for row, at, k, found in zip(
            expected, done, counts, decoder.step(slots, given, all_logits=True).logits, strict=True
        ):
            torch.testing.assert_close(found, row[at : at + k], atol=1e-5, rtol=1e-5)
        done = [at + k for at, k in zip(done, counts, strict=True)]
    for slot, ids, at, row in zip(slots, texts, done, expected, strict=True):
        found = decoder.step([slot], [ids[at:]], all_logits=True).logits[0]
        torch.testing.assert_close(found, row[at:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_one_token_at_a_time_and_all_at_once_agree(name: str) -> None:
    model = MODELS[name]()
    decoder, ids = LeanDecoder(model, max_slots=2), [(11 * i) % 96 for i in range(40)]
    expected = plain(model, ids)
    torch.testing.assert_close(decoder.prefill(0, ids), expected[-1], atol=1e-5, rtol=1e-5)
    for token, row in zip(ids, expected, strict=True):
        torch.testing.assert_close(decoder.prefill(1, [token]), row, atol=1e-5, rtol=1e-5)


def test_a_long_prompt_goes_in_chunks() -> None:
    model = tiny_model(max_position_embeddings=4096)
    ids = [(i * i) % 259 for i in range(2500)]
    torch.testing.assert_close(
        LeanDecoder(model).prefill(0, ids), plain(model, ids)[-1], atol=1e-5, rtol=1e-5
    )


def test_what_other_slots_hold_changes_nothing() -> None:
    decoder = LeanDecoder(tiny_model(), max_slots=4)
    decoder.step([0, 1, 2], [[1, 2, 3], [4, 5], [6]])
    first = decoder.step([0, 1, 2], [[7], [8], [9]]).logits[0]
    decoder.free(0)
    decoder.step([0, 1, 3], [[1, 2, 3], [200] * 60, [201, 202]])
    torch.testing.assert_close(decoder.step([3, 1, 0], [[7], [8], [7]]).logits[2], first, atol=1e-5, rtol=0)


def test_forced_tokens_of_bf16_weights_are_as_probable_as_in_fp32(embedded: Any, embedded_cache: Any) -> None:
    """In bf16 it stays about as close to fp32 as transformers' own bf16 does, 4-bit weights included."""
    from llms.models.load import LoadSpec, load

    loaded = load(LoadSpec(model="smollm2-135m", dtype="bfloat16", device="cpu", cache_dir=embedded_cache))
    text = "The river rises in the mountains and flows through three countries before it reaches the sea."
    ids = embedded.tokenizer(text)["input_ids"]
    taken = torch.tensor(ids[1:])[:, None]

    def log_probs(decoder: Decoder) -> torch.Tensor:
        steps = [[token] for token in ids] if isinstance(decoder, LeanDecoder) else [ids]
        rows = [decoder.step([0], [step], all_logits=True).logits[0] for step in steps]
        return torch.cat(rows)[:-1].log_softmax(-1).gather(1, taken)[:, 0]

    exact = log_probs(ReferenceDecoder(embedded.model))
    lean = LeanDecoder(loaded.model)
    assert lean.four_bit and "4-bit" in lean.describe()
    bound = 2 * (log_probs(ReferenceDecoder(loaded.model)) - exact).abs().mean()
    assert (log_probs(lean) - exact).abs().mean() <= bound
    assert (log_probs(LeanDecoder(loaded.model, four_bit=False)) - exact).abs().mean() <= bound


def test_a_window_and_names_for_people() -> None:
    decoder = LeanDecoder(tiny_model(), window=16, max_slots=1)
    assert decoder.window == 16 and decoder.describe() == "lean (own forward pass, float32) on cpu"
    with pytest.raises(IndexError, match="16 tokens"):
        decoder.prefill(0, list(range(17)))


def biased() -> Any:
    return tiny_llama(attention_bias=True)


def replaced() -> Any:
    class Other(nn.Linear):
        """What an adapter or a quantizer puts in a layer's place."""

    model = tiny_model()
    model.model.layers[1].mlp.down_proj = Other(128, 64, bias=False)
    return model


def other_norm() -> Any:
    model = tiny_model()
    model.model.layers[0].input_layernorm = nn.LayerNorm(64)
    return model


def hooked() -> Any:
    model = tiny_model()
    model.model.layers[0].register_forward_hook(lambda module, args, out: out)
    return model


def mixed() -> Any:
    model = tiny_model()
    model.model.norm.to(torch.bfloat16)
    return model


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))


def other_class() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (biased, "Linear with a bias"),
        (replaced, "Other"),
        (other_norm, "LayerNorm"),
        (hooked, "hook"),
        (mixed, "bfloat16, torch.float32"),
        (adapted, "PeftModel"),
        (other_class, "Qwen2ForCausalLM"),
        (lambda: tiny_model(dtype=torch.float16), "float16"),
        (lambda: tiny_model(hidden_act="gelu"), "'gelu'"),
        (lambda: tiny_model().to("meta"), "on meta"),
    ],
)
def test_what_it_does_not_take_it_names(build: Any, reason: str) -> None:
    model = build()
    assert reason in str(why_not(model))
    with pytest.raises(UnsupportedModel, match="lean decoder serves, found"):
        LeanDecoder(model)


def test_angles_that_depend_on_the_length_are_not_taken() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert "'dynamic'" in str(why_not(tiny_model(rope_parameters=rope)))


def test_models_that_gain_nothing_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llms.lean.decoder.LARGEST", 1000)
    assert "more than 1,000" in str(why_not(tiny_model()))


def test_the_cpu_takes_it_by_itself_and_says_why_where_it_does_not() -> None:
    taken = make_decoder(adopt(tiny_model(), tiny_tokenizer()), max_slots=2)
    assert isinstance(taken, LeanDecoder) and taken.describe().startswith("lean")
    refused = make_decoder(adopt(biased(), tiny_tokenizer()), max_slots=2)
    assert type(refused) is ReferenceDecoder and refused.describe().endswith(
        "no faster one: a Linear with a bias"
    )
    asked = make_decoder(adopt(tiny_model(), tiny_tokenizer()), max_slots=2, kind="reference")
    assert type(asked) is ReferenceDecoder and asked.describe().endswith("on cpu")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"dtype": "float32"}, True),
        ({"dtype": "float16"}, False),
        ({"quantization": "nf4"}, False),
        ({"device": "cuda:0"}, False),
    ],
)
def test_what_will_be_served_is_told_from_the_checkpoint(
    embedded_dir: Path, changes: dict[str, str], expected: bool
) -> None:
    how = {"quantization": "none", "dtype": "bfloat16", "device": "cpu", **changes}
    facts, setting = read(embedded_dir), Setting(**how, window=512)  # type: ignore[arg-type]
    assert lean_plan.expects(facts, setting) is expected


@pytest.mark.parametrize("stage", ["fp32", "operators", "any bf16", "of a GGUF file", "blocks at hand"])
def test_what_it_takes_beside_the_weights_is_planned(
    embedded_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("llms.lean.plan.why_not", lambda: "no g++" if stage == "operators" else None)
    facts = replace(read(embedded_dir), folder=tmp_path)
    if stage in ("of a GGUF file", "blocks at hand"):
        (tmp_path / "manifest.json").write_text("{}")
    if stage == "blocks at hand":
        (tmp_path / lean_plan.BLOCKS).write_bytes(bytes(1000))
    dtype = "float32" if stage == "fp32" else "bfloat16"
    setting = Setting(quantization="none", dtype=dtype, device="cpu", window=8192)
    lean = lean_plan.footprint(facts, setting).total + lean_plan.UNBUILT
    copies = lean - reference(facts, setting).total
    low, high = {  # bytes a weight
        "fp32": (0, 0),
        "operators": (2.4, 3.0),  # 2, and 4 bits of most
        "any bf16": (1.99, 2.01),
        "of a GGUF file": (0.65, 0.75),  # 4 bits, 8 of the head, and scales
        "blocks at hand": (-1.6, -1.5),  # all that is not the embedding stays on the disk
    }[stage]
    assert low * facts.parameters <= copies <= high * facts.parameters
