"""The CPU decoder: the contract on the embedded model, logits against transformers, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_models import model_of
from cpu_sets import needs_kernels
from decoder_contract import EmbeddedContract
from tiny_models import tiny_model, tiny_tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llms.decoders import cpu, reference_plan
from llms.decoders.base import Decoder
from llms.decoders.cpu.decoder import CpuDecoder, other_architecture, unsupported
from llms.decoders.reference import ReferenceDecoder
from llms.errors import BadRequest, UnsupportedModel
from llms.models.checkpoint import Checkpoint
from llms.models.load import LoadSettings, adopt, load, make_decoder
from llms.models.weights import weights_of


@pytest.fixture(scope="module", name="in_bf16")
def embedded_in_bf16(embedded_cache: Path) -> Any:
    return load(LoadSettings(model="smollm2-135m", dtype="bfloat16", device="cpu", cache_dir=embedded_cache))


@needs_kernels
class TestCpuDecoderOnTheEmbeddedModel(EmbeddedContract):
    """The contract with weights in bf16 against the same model in fp32, with logits from -20 to 30."""

    tolerance = 0.5

    @pytest.fixture
    def decoder(self, in_bf16: Any) -> Decoder:
        return CpuDecoder(in_bf16.weights, window=512, max_slots=16)


def tiny_llama(**changes: Any) -> Any:
    """A random Llama with llama3's rotary scaling, and heads of another size than width / heads."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=96, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config).bfloat16().eval()


MODELS: dict[str, Any] = {
    "grouped queries": lambda: model_of(None),
    "one key head": lambda: model_of(None, num_key_value_heads=1),
    "every head its own keys": lambda: model_of(None, num_key_value_heads=4),
    "sliding window": lambda: model_of(None, sliding_window=8),
    "llama": tiny_llama,
}


def plain(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits fp32 [k, V] of one pass of transformers without a cache; it leaves the model in fp32."""
    with torch.inference_mode():
        return model.float()(torch.tensor([ids]), use_cache=False).logits[0]


def assert_near(found: Any, exact: torch.Tensor) -> None:
    """Every row within 1.2 %: weights, keys and values are in bf16."""
    assert ((found - exact).norm(dim=-1) <= 0.012 * exact.norm(dim=-1)).all()


@needs_kernels
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_in_every_batch_shape(name: str) -> None:
    model = MODELS[name]()
    decoder = CpuDecoder(weights_of(model), max_slots=6)
    texts = [[(7 * i + 3 * j) % 96 for i in range(24 + 5 * j)] for j in range(5)]  # 3 windows and more
    expected = [plain(model, ids) for ids in texts]
    slots = [4, 0, 3, 1, 2]
    done = [0] * 5
    for counts in ((1, 9, 2, 17, 3), (5, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 3, 3, 3, 3), (1, 1, 1, 1, 1)):
        given = [ids[at : at + k] for ids, at, k in zip(texts, done, counts, strict=True)]
        for row, at, k, found in zip(
            expected, done, counts, decoder.step(slots, given, all_logits=True).logits, strict=True
        ):
            assert_near(found, row[at : at + k])
        done = [at + k for at, k in zip(done, counts, strict=True)]
    for slot, ids, at, row in zip(slots, texts, done, expected, strict=True):
        assert_near(decoder.step([slot], [ids[at:]], all_logits=True).logits[0], row[at:])


@needs_kernels
@pytest.mark.parametrize("name", MODELS)
def test_one_token_at_a_time_and_all_at_once_agree(name: str) -> None:
    model = MODELS[name]()
    decoder, ids = CpuDecoder(weights_of(model), max_slots=2), [(11 * i) % 96 for i in range(40)]
    expected = plain(model, ids)
    together = decoder.prefill(0, ids)
    assert_near(together, expected[-1])
    for token, row in zip(ids, expected, strict=True):
        alone = decoder.prefill(1, [token])
        assert_near(alone, row)
    assert torch.equal(alone, together)


@needs_kernels
def test_a_long_prompt_goes_in_chunks() -> None:
    model = model_of(None, max_position_embeddings=4096)
    ids = [(i * i) % 259 for i in range(2500)]
    found = CpuDecoder(weights_of(model)).prefill(0, ids)
    assert_near(found, plain(model, ids)[-1])


@needs_kernels
def test_a_prompt_whose_second_chunk_fails_leaves_the_slot_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = CpuDecoder(weights_of(model_of(None, max_position_embeddings=4096)), max_slots=2)
    decoder.prefill(0, [1, 2, 3])
    expected, ids = decoder.prefill(0, [4]), [(i * i) % 259 for i in range(1500)]
    decoder.truncate(0, 3)
    run, passes = decoder._forward, []

    def fails_at_the_second(*arguments: Any) -> torch.Tensor:
        passes.append(1)
        if len(passes) == 2:
            raise MemoryError
        return run(*arguments)

    for slot, length in ((0, 3), (1, 0)):
        passes.clear()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(decoder, "_forward", fails_at_the_second)
            decoder.prefill(slot, ids)
        assert decoder.length(slot) == length
    assert torch.equal(decoder.prefill(0, [4]), expected)


@needs_kernels
def test_what_other_slots_hold_changes_nothing() -> None:
    decoder = CpuDecoder(weights_of(model_of(None)), max_slots=4)
    decoder.step([0, 1, 2], [[1, 2, 3], [4, 5], [6]])
    first = torch.as_tensor(decoder.step([0, 1, 2], [[7], [8], [9]]).logits)[0]
    decoder.free(0)
    decoder.step([0, 1, 3], [[1, 2, 3], [200] * 60, [201, 202]])
    again = torch.as_tensor(decoder.step([3, 1, 0], [[7], [8], [7]]).logits)[2]
    assert torch.equal(again, first)


@needs_kernels
def test_forced_tokens_of_bf16_weights_are_as_probable_as_in_fp32(embedded: Any, in_bf16: Any) -> None:
    """In bf16 it is about as close to fp32 as transformers' own bf16, with 4-bit weights too."""
    text = "The river rises in the mountains and flows through three countries before it reaches the sea."
    ids = embedded.tokenizer(text)["input_ids"]
    taken = torch.tensor(ids[1:])[:, None]

    def log_probs(decoder: Decoder) -> torch.Tensor:
        steps = [[token] for token in ids] if isinstance(decoder, CpuDecoder) else [ids]
        rows = [decoder.step([0], [step], all_logits=True).logits[0] for step in steps]
        return torch.cat(rows)[:-1].log_softmax(-1).gather(1, taken)[:, 0]

    exact = log_probs(ReferenceDecoder(embedded.model))
    decoder = CpuDecoder(in_bf16.weights)
    assert "4-bit" in decoder.describe()
    bound = 2 * (log_probs(ReferenceDecoder(in_bf16.model)) - exact).abs().mean()
    assert (log_probs(decoder) - exact).abs().mean() <= bound


@needs_kernels
def test_a_window_and_names_for_people() -> None:
    decoder = CpuDecoder(weights_of(model_of(None)), window=16, max_slots=1)
    assert decoder.window == 16
    assert decoder.describe().startswith("lean (native code for AVX")
    assert decoder.describe().endswith(", 16-bit weights) on cpu")
    with pytest.raises(IndexError, match="16 tokens"):
        decoder.prefill(0, list(range(17)))


def biased() -> Any:
    return tiny_llama(attention_bias=True)


def replaced() -> Any:
    class Other(nn.Linear):
        """A layer as an adapter or a quantizer replaces it."""

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


def refusal(model: Any) -> str | None:
    return other_architecture(model) or unsupported(weights_of(model))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (biased, "Linear with a bias"),
        (replaced, "Other"),
        (other_norm, "LayerNorm"),
        (hooked, "hook"),
        (mixed, "bfloat16, torch.float32"),
        (lambda: tiny_model(head_dim=32), "float32"),
        (lambda: model_of(None, hidden_size=48), "sizes that the kernels do not support"),
        (adapted, "PeftModel"),
        (other_class, "Qwen2ForCausalLM"),
        (lambda: tiny_model(dtype=torch.float16), "float16"),
        (lambda: tiny_model(hidden_act="gelu"), "'gelu'"),
        (lambda: tiny_model().to("meta"), "on meta"),
    ],
)
def test_what_it_does_not_take_it_names(build: Any, reason: str) -> None:
    model = build()
    assert reason in str(refusal(model))
    with pytest.raises((UnsupportedModel, BadRequest), match=r"(lean decoder serves|on a device), found"):
        make_decoder(adopt(model, tiny_tokenizer()), kind="lean")
    if other_architecture(model) is None:
        with pytest.raises(UnsupportedModel, match="CPU decoder serves, found"):
            CpuDecoder(weights_of(model))


def test_angles_that_depend_on_the_length_are_not_taken() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert "'dynamic'" in str(refusal(tiny_model(rope_parameters=rope)))


def test_models_that_gain_nothing_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llms.decoders.cpu.decoder.LARGEST", 1000)
    assert "more than 1,000" in str(refusal(model_of(None)))


@needs_kernels
def test_the_cpu_takes_it_by_itself_and_says_why_where_it_does_not() -> None:
    taken = make_decoder(adopt(model_of(None), tiny_tokenizer()), max_slots=2)
    assert isinstance(taken, CpuDecoder) and taken.describe().startswith("lean")
    refused = make_decoder(adopt(biased(), tiny_tokenizer()), max_slots=2)
    assert type(refused) is ReferenceDecoder and refused.describe().endswith(
        "no faster one: a Linear with a bias"
    )
    asked = make_decoder(adopt(model_of(None), tiny_tokenizer()), max_slots=2, kind="reference")
    assert type(asked) is ReferenceDecoder and asked.describe().endswith("on cpu")


@needs_kernels
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"dtype": "float32"}, False),
        ({"dtype": "float16"}, False),
        ({"quantization": "nf4"}, False),
        ({"device": "cuda:0"}, False),
    ],
)
def test_what_will_be_served_is_told_from_the_checkpoint(
    embedded_dir: Path, changes: dict[str, str], expected: bool
) -> None:
    how = {"quantization": "none", "dtype": "bfloat16", "device": "cpu", **changes}
    reason = cpu.supports(Checkpoint.open(embedded_dir), LoadSettings(**how))  # type: ignore[arg-type]
    assert (reason is None) is expected


@pytest.mark.parametrize("stage", ["any bf16", "of a GGUF file", "blocks at hand"])
def test_what_it_takes_beside_the_weights_is_planned(embedded_dir: Path, tmp_path: Path, stage: str) -> None:
    checkpoint = replace(Checkpoint.open(embedded_dir), folder=tmp_path)
    if stage in ("of a GGUF file", "blocks at hand"):
        (tmp_path / "manifest.json").write_text("{}")
    if stage == "blocks at hand":
        (tmp_path / cpu.BLOCKS).write_bytes(bytes(1000))
    settings = LoadSettings(quantization="none", dtype="bfloat16", device="cpu")
    ours, reference = (plan.memory(checkpoint, settings, 8192) for plan in (cpu, reference_plan))
    assert (ours.cache, ours.workspace) == (reference.cache, reference.workspace)
    copies = ours.overhead + cpu.UNBUILT - reference.overhead
    low, high = {  # bytes per weight
        "any bf16": (1.99, 2.01),
        "of a GGUF file": (0.65, 0.75),  # 4 bits, 8 of the head, and scales
        "blocks at hand": (-1.6, -1.5),  # everything except the embedding stays on disk
    }[stage]
    assert low * checkpoint.parameters <= copies <= high * checkpoint.parameters
