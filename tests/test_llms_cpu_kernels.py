"""The CPU decoder's kernels, for every instruction set: the contract, and the logits of all models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_models import Q4, Q8, model_of
from cpu_sets import every_set, needs_kernels
from decoder_contract import DecoderContract
from test_llms_cpu_blocks import four_bit_model  # noqa: F401  the fixture `model`
from tiny_models import tiny_model, tiny_tokenizer

from llms.decoders.base import Decoder
from llms.decoders.cpu import suits
from llms.decoders.cpu.decoder import CpuDecoder, unsupported
from llms.decoders.cpu.weights import BlockFile
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.models.load import LoadSettings, adopt, load, make_decoder
from llms.models.weights import weights_of


@every_set()
class TestKernels(DecoderContract):
    """The contract with weights in 4 bits; the logits are about 0.5, of which bf16 keeps 0.002."""

    tolerance = 0.01

    @pytest.fixture
    def model(self, model: Any) -> Any:
        return model

    @pytest.fixture
    def tokenizer(self) -> Any:
        return tiny_tokenizer()

    @pytest.fixture
    def decoder(self, model: Any, instructions: str) -> Decoder:
        decoder = CpuDecoder(weights_of(model), max_slots=16, instructions=instructions)
        assert f"native code for {instructions}," in decoder.describe()
        return decoder


@pytest.fixture(scope="module", name="in_bf16")
def embedded_in_bf16(embedded_cache: Path) -> Any:
    return load(LoadSettings(model="smollm2-135m", dtype="bfloat16", device="cpu", cache_dir=embedded_cache))


MODELS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one key head": {"num_key_value_heads": 1},
    "every head its own keys": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 64},
    "wider heads": {"head_dim": 96},
    "the widest heads": {"head_dim": 128},
    "sliding window": {"sliding_window": 8},
    "an own head": {"tie_word_embeddings": False},
    "rows that fill no group": {"vocab_size": 263},
    "odd numbers of blocks": {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 96,
    },
}


@every_set()
@pytest.mark.parametrize("kind", [Q4, Q8, None])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_in_fp32_and_the_same_bits_in_any_batch(
    name: str, kind: Any, instructions: str
) -> None:
    model = model_of(kind, **MODELS[name])
    decoder = CpuDecoder(weights_of(model), max_slots=6, instructions=instructions)
    texts = [[(7 * i + 3 * j) % 250 for i in range(24 + 5 * j)] for j in range(5)]
    alone = []
    for ids in texts:
        decoder.free(5)
        alone.append(decoder.step([5], [ids], all_logits=True).logits[0])
    done = [0] * 5
    for counts in ((1, 9, 2, 17, 3), (5, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 3, 3, 3, 3), (14, 15, 27, 17, 36)):
        given = [ids[at : at + k] for ids, at, k in zip(texts, done, counts, strict=True)]
        rows = decoder.step([4, 0, 3, 1, 2], given, all_logits=True).logits
        for row, at, k, found in zip(alone, done, counts, rows, strict=True):
            assert torch.equal(found, row[at : at + k])
        done = [at + k for at, k in zip(done, counts, strict=True)]
    assert done == [24, 29, 34, 39, 44]
    for ids, found in zip(texts, alone, strict=True):
        with torch.inference_mode():
            exact = model.float()(torch.tensor([ids]), use_cache=False).logits[0]
        assert (found - exact).norm() <= 0.012 * exact.norm()


@needs_kernels
def test_the_last_logits_of_a_ragged_batch_and_none_at_all(model: Any) -> None:
    decoder = CpuDecoder(weights_of(model), max_slots=4)
    texts = [[1, 2, 3, 4], [5], [6, 7]]
    all_of_them = decoder.step([0, 1, 2], texts, all_logits=True).logits
    for slot in range(3):
        decoder.free(slot)
    last = decoder.step([2, 0, 1], texts).logits
    assert torch.equal(torch.as_tensor(last), torch.stack([rows[-1] for rows in all_of_them]))


@every_set()
def test_the_number_of_threads_changes_no_bit(model: Any, instructions: str) -> None:
    decoder, threads = (
        CpuDecoder(weights_of(model), max_slots=2, instructions=instructions),
        torch.get_num_threads(),
    )
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            decoder.free(0)
            found.append(decoder.prefill(0, list(range(40))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernels
def test_the_same_seed_draws_the_same_alone_and_in_a_batch(model: Any) -> None:
    decoder = CpuDecoder(weights_of(model), max_slots=8)
    prompts = [[(5 * i + j) % 250 for i in range(4 + j)] for j in range(6)]
    how = [Sampling(temperature=1.0, top_p=0.95, seed=seed) for seed in range(6)]
    together = decoder.step(list(range(6)), prompts, how).tokens
    assert together is not None
    for index in range(6):
        decoder.free(7)
        assert torch.equal(
            torch.as_tensor(decoder.step([7], [prompts[index]], [how[index]]).tokens),
            together[index : index + 1],
        )


@every_set()
@pytest.mark.parametrize("kind", [Q4, Q8, None])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layer", [0, 1])
def test_damage_shows_in_the_logits(kind: Any, value: float, layer: int, instructions: str) -> None:
    model = model_of(kind)
    model.model.layers[layer].mlp.down_proj.weight.data[3, 40] = value
    assert not CpuDecoder(weights_of(model), instructions=instructions).prefill(0, [1, 2, 3]).isfinite().any()


@every_set()
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1e2, 1e4])
def test_one_activation_of_another_size_costs_no_precision(size: float, instructions: str) -> None:
    """32 activations share a scale; the error that a large one causes is small compared with its effect."""
    model = model_of(Q4)
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.data[5::32] *= size
    ids = [(7 * i) % 250 for i in range(40)]
    found = CpuDecoder(weights_of(model), instructions=instructions).prefill(0, ids)
    with torch.inference_mode():
        exact = model.float()(torch.tensor([ids]), use_cache=False).logits[0, -1]
    assert (found - exact).norm() <= 0.012 * exact.norm()


@every_set()
def test_a_long_row_of_scores_keeps_its_softmax(instructions: str) -> None:
    model = tiny_model(dtype=torch.bfloat16, head_dim=32, max_position_embeddings=4096)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 400  # scores in the thousands
    ids = [(i * i) % 259 for i in range(1500)]
    found = CpuDecoder(weights_of(model), instructions=instructions).prefill(0, ids)
    with torch.inference_mode():
        exact = model.float()(torch.tensor([ids]), use_cache=False).logits[0, -1]
    assert found.isfinite().all() and (found - exact).norm() <= 0.2 * exact.norm()


def test_shapes_that_the_kernels_do_not_support_are_refused() -> None:
    odd = tiny_model(dtype=torch.bfloat16, hidden_size=48, num_attention_heads=4, num_key_value_heads=4)
    assert not suits(odd.config.to_dict()) and suits(tiny_model(head_dim=32).config.to_dict())
    assert not suits(tiny_model(head_dim=16).config.to_dict())
    assert not suits(tiny_model(head_dim=160).config.to_dict())
    assert unsupported(weights_of(odd)) == "sizes that the kernels do not support"
    made = make_decoder(adopt(odd, tiny_tokenizer()), max_slots=2)
    assert type(made) is ReferenceDecoder and "sizes that the kernels" in made.describe()


@every_set()
def test_after_a_chat_s_markers_it_is_nearer_to_fp32_than_transformers_in_bf16(
    embedded: Any, in_bf16: Any, instructions: str
) -> None:
    """Markers have activations a thousand times larger; 8 bits for those lost the answer."""
    decoder = CpuDecoder(
        in_bf16.weights, blocks=BlockFile(in_bf16.checkpoint.folder), instructions=instructions
    )
    for question in ("What is the capital of France?", "How do I boil an egg?"):
        text = in_bf16.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        ids = in_bf16.tokenizer(text, add_special_tokens=False)["input_ids"]
        exact, theirs = (ReferenceDecoder(model).prefill(0, ids) for model in (embedded.model, in_bf16.model))
        decoder.free(0)
        # 0.16 and 0.53 of it with activations in bf16, 2.7 in 8 bits
        assert (decoder.prefill(0, ids) - exact).norm() <= (theirs - exact).norm()


@every_set()
def test_forced_tokens_are_as_probable_as_in_fp32(embedded: Any, in_bf16: Any, instructions: str) -> None:
    """The perplexity of a text stays within 1 %; the reference's own bf16 is off by as much."""
    text = "The river rises in the mountains and flows through three countries before it reaches the sea."
    ids = embedded.tokenizer(text)["input_ids"]
    taken = torch.tensor(ids[1:])[:, None]

    def mean(decoder: Decoder) -> float:
        rows = torch.as_tensor(decoder.step([0], [ids], all_logits=True).logits[0])
        return float(rows[:-1].log_softmax(-1).gather(1, taken).mean())

    decoder = CpuDecoder(
        in_bf16.weights, blocks=BlockFile(in_bf16.checkpoint.folder), instructions=instructions
    )
    assert abs(mean(decoder) - mean(ReferenceDecoder(embedded.model))) <= 0.01
