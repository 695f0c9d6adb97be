"""The CUDA decoder on a GPU: the contract, every kernel against a few lines of torch, and odd shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_contract import DecoderContract

from llms.decoders.base import Decoder
from llms.decoders.cuda.decoder import CudaDecoder
from llms.decoders.cuda.prompt import packed_slices
from llms.decoders.cuda.synthetic import SMOLLM_135M, synthetic_model
from llms.decoders.cuda.weights import unsupported
from llms.decoders.sampling import Sampling, sample
from llms.models.weights import weights_of

pytestmark = pytest.mark.gpu

SIZES: dict[str, dict[str, Any]] = {
    "mistral-7b": {"num_hidden_layers": 2, "vocab_size": 4096},
    "smollm": {**SMOLLM_135M, "num_hidden_layers": 2},
    "sliding": {
        "num_hidden_layers": 2, "vocab_size": 4096, "hidden_size": 1024, "intermediate_size": 2048,
        "num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 64, "nested": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module", params=list(SIZES))
def pair(request: pytest.FixtureRequest, kernels: Path) -> tuple[Any, CudaDecoder]:
    model = synthetic_model("cuda", **SIZES[request.param])
    assert unsupported(weights_of(model)) is None
    return model, CudaDecoder(
        weights_of(model), max_slots=66, window=1024, cache=kernels, release=False, cache_tokens=9000
    )


def logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """fp32 [k, V] of one plain forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids], device="cuda"), use_cache=False).logits[0]
    return torch.as_tensor(logits).float().log_softmax(-1)


def random_ids(decoder: CudaDecoder, count: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return [int(i) for i in torch.randint(0, decoder.vocab_size, (count,), generator=random)]


def ordered(logits: torch.Tensor) -> torch.Tensor:
    """fp64 [n, V], of equal logits the lower token first: the kernel's order, whose sums are integers.

    bf16 logits of 49,152 tokens are full of ties, and fp32 sums over them move a draw now and then.
    """
    return logits.double() - 1e-11 * torch.arange(logits.shape[-1], device=logits.device)


class TestFastContract(DecoderContract):
    """Because bf16 rounds, logits of deviation 2 differ by up to 0.25 between batch shapes."""

    tolerance = 0.45
    slips = 1

    def sampled(self, logits: torch.Tensor, hows: list[Sampling], held: list[list[int]]) -> torch.Tensor:
        return super().sampled(ordered(logits), hows, held)

    def test_the_same_seed_draws_the_same_in_any_batch(
        self, decoder: Decoder, prompts: list[list[int]]
    ) -> None:
        """Between buckets bf16 sums may differ, and so may a draw; within a bucket they must not."""
        how = [Sampling(temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4)]
        batch = decoder.step([0, 1, 2, 3], prompts, how).tokens
        for slot in range(4):
            decoder.free(slot)
        other = decoder.step([3, 2, 1, 0], prompts[::-1], how[::-1]).tokens
        assert batch is not None and other is not None
        assert batch.tolist() == other.tolist()[::-1]

    @pytest.fixture
    def model(self, pair: tuple[Any, CudaDecoder]) -> Any:
        return pair[0]

    @pytest.fixture
    def decoder(self, pair: tuple[Any, CudaDecoder]) -> Decoder:
        return pair[1]

    @pytest.fixture
    def tokenizer(self) -> Any:
        return lambda text: {"input_ids": [ord(c) * 31 % 4000 for c in text][:14]}


def bnb_spread(model: Any, ids: list[int], start: int) -> float:
    """Return how far log-probabilities of bitsandbytes differ between forcing tokens singly and at once."""
    from transformers import DynamicCache

    worst = 0.0
    whole = logprobs(model, ids)
    with torch.inference_mode():
        cache = DynamicCache()
        model(torch.tensor([ids[:start]], device="cuda"), past_key_values=cache)
        for at in range(start, len(ids) - 1):
            out = model(torch.tensor([[ids[at]]], device="cuda"), past_key_values=cache)
            row = out.logits[0, -1].float().log_softmax(-1)
            worst = max(worst, float((row - whole[at])[ids[at + 1]].abs()))
    return worst


def forced(decoder: CudaDecoder, ids: list[int], start: int, columns: int) -> torch.Tensor:
    """fp32 [k]: log-probabilities of the tokens from start + 1 on, forced `columns` at a time."""
    decoder.free(0)
    decoder.prefill(0, ids[:start])
    pieces = range(start, len(ids) - 1, columns)
    rows = [
        decoder.step([0], [ids[at : min(at + columns, len(ids) - 1)]], all_logits=True).logits[0]
        for at in pieces
    ]
    taken = torch.tensor(ids[start + 1 :], device="cuda")
    return torch.cat(rows).log_softmax(-1).gather(1, taken[:, None])[:, 0]


@pytest.mark.parametrize("columns", [1, 11])
def test_forced_tokens_lie_within_the_spread_of_bitsandbytes(
    pair: tuple[Any, CudaDecoder], columns: int
) -> None:
    """The largest difference over 4 x 99 forced tokens, against bitsandbytes' own between M = 1 and 16."""
    model, decoder = pair
    worst = spread = 0.0
    for seed in range(4):
        ids = random_ids(decoder, 200, seed)
        taken = torch.tensor(ids[101:], device="cuda")
        whole = logprobs(model, ids)[100:-1].gather(1, taken[:, None])[:, 0]
        worst = max(worst, float((forced(decoder, ids, 100, columns) - whole).abs().max()))
        spread = max(spread, bnb_spread(model, ids, 100))
    assert worst <= spread, f"fast {worst:.4f}, bitsandbytes against itself {spread:.4f}"


def test_dequantized_weights_are_those_of_bitsandbytes(pair: tuple[Any, CudaDecoder]) -> None:
    import bitsandbytes.functional as bnb

    model, decoder = pair
    a, m = model.model.layers[1].self_attn, model.model.layers[1].mlp
    layer = decoder.weights.layers[1]
    for packed, linears in (
        (layer.qkv, [a.q_proj, a.k_proj, a.v_proj]), (layer.out, [a.o_proj]), (layer.down, [m.down_proj]),
    ):  # fmt: skip
        own = torch.cat([bnb.dequantize_4bit(x.weight.data, x.weight.quant_state) for x in linears])
        found = [decoder._prefill.dequantize(packed, *part).clone() for part in packed_slices(packed)]
        assert torch.equal(torch.cat(found), own)
    gate, up = (bnb.dequantize_4bit(x.weight.data, x.weight.quant_state) for x in (m.gate_proj, m.up_proj))
    for first, count in packed_slices(layer.gate_up):
        rows = slice(first * 8, (first + count) * 8)
        part = decoder._prefill.dequantize(layer.gate_up, first, count, len(gate))
        assert torch.equal(part, torch.cat([gate[rows], up[rows]]))


@pytest.mark.parametrize("batch", [2, 5, 8, 13, 16, 31, 64])
def test_a_slot_does_not_see_what_others_hold(pair: tuple[Any, CudaDecoder], batch: int) -> None:
    _, decoder = pair
    outputs = []
    for seed in (1, 2):
        for slot in range(66):
            decoder.free(slot)
        decoder.prefill(0, random_ids(decoder, 77))
        for slot in range(1, batch):
            decoder.prefill(slot, random_ids(decoder, 3 + 5 * slot % 50, seed))
        outputs.append(decoder.step(list(range(batch)), [[7]] * batch).logits[0])
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("length", [70, 300, 1000])
def test_long_and_chunked_prompts(pair: tuple[Any, CudaDecoder], length: int) -> None:
    model, decoder = pair
    ids = random_ids(decoder, length)
    expected = logprobs(model, ids)[-1]
    whole, decoder._prefill.chunk = decoder._prefill.chunk, 64 + 37
    decoder.free(0)
    chunked = decoder.prefill(0, ids).log_softmax(-1)
    decoder._prefill.chunk = whole
    decoder.free(0)
    at_once = decoder.prefill(0, ids).log_softmax(-1)
    assert (chunked - expected).abs().max() < 0.4 and (at_once - expected).abs().max() < 0.4


def test_a_step_of_a_long_list_gives_what_prefill_and_short_steps_give(pair: tuple[Any, CudaDecoder]) -> None:
    model, decoder = pair
    ids, short = random_ids(decoder, 150), random_ids(decoder, 5, 1)
    for slot in range(2):
        decoder.free(slot)
    both = decoder.step([0, 1], [ids, short], all_logits=True).logits
    assert [len(rows) for rows in both] == [150, 5]
    assert (both[0].log_softmax(-1) - logprobs(model, ids)).abs().max() < 0.4
    assert (both[1].log_softmax(-1) - logprobs(model, short)).abs().max() < 0.4
    assert decoder.length(0) == 150 and decoder.length(1) == 5


def test_beside_weights_and_cache_at_most_600_mb_are_taken(kernels: Path) -> None:
    """Mistral-7B's widths, every graph captured, a prompt of one whole chunk; packing included."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    model = synthetic_model("cuda", num_hidden_layers=4, vocab_size=32_768)
    decoder = CudaDecoder(weights_of(model), max_slots=64, window=8192, cache=kernels, cache_tokens=16_384)
    for bucket in decoder.graphs.buckets:
        decoder.graphs.capture(bucket)
    decoder.prefill(0, random_ids(decoder, 4096))
    decoder.prefill(0, random_ids(decoder, 4000))
    kept = decoder.weights.nbytes + decoder.pool.numel() * 2
    assert torch.cuda.max_memory_reserved() - before - kept <= 600 * 2**20


def test_kernels_without_overlap_compute_the_same(kernels: Path) -> None:
    model = synthetic_model("cuda", **SIZES["mistral-7b"])
    two = [
        CudaDecoder(
            weights_of(model), max_slots=16, window=256, cache=kernels, release=False, overlap=overlap
        )
        for overlap in (True, False)
    ]
    ids = random_ids(two[0], 40)
    for lists in ([[5]], [[6]], [ids], [ids[:2]] * 4, [ids[:3]] * 10):
        slots = list(range(len(lists)))
        rows = [torch.as_tensor(d.step(slots, lists).logits) for d in two]
        assert torch.equal(rows[0], rows[1])


def test_sampling_on_the_device_follows_the_rules(pair: tuple[Any, CudaDecoder]) -> None:
    _, decoder = pair
    for slot in range(66):
        decoder.free(slot)
    wrong = 0
    for turn in range(40):
        hows = [
            Sampling(), Sampling(temperature=1.0, seed=turn), Sampling(temperature=0.7, top_k=50, seed=turn),
            Sampling(temperature=1.2, top_p=0.9, seed=turn), Sampling(temperature=1.0, min_p=0.1, seed=turn),
            Sampling(temperature=0.8, top_k=40, top_p=0.8, min_p=0.05, seed=2**63 + turn),
            Sampling(repetition_penalty=1.6), Sampling(temperature=0.9, seed=turn, repetition_penalty=0.5),
            Sampling(temperature=0.8, seed=turn, top_k=9, logit_bias=tuple((i, 0.4) for i in range(300))),
        ]  # fmt: skip
        result = decoder.step(list(range(9)), [[turn + slot] for slot in range(9)], hows)
        held = [[i + slot for i in range(turn + 1)] for slot in range(9)]
        assert result.tokens is not None and isinstance(result.logits, torch.Tensor)
        expected = sample(ordered(result.logits), hows, [turn + 1] * 9, held)
        wrong += int((result.tokens != expected).sum())
    assert wrong <= 1, "of 360; exp2 of the GPU rounds otherwise"


def test_steps_run_ahead_of_the_host(pair: tuple[Any, CudaDecoder]) -> None:
    _, decoder = pair
    for slot in range(3):
        decoder.free(slot)
        decoder.prefill(slot, random_ids(decoder, 20, slot))
    how = [Sampling()] * 3
    tokens = decoder.step([0, 1, 2], [[5], [6], [7]], how).tokens
    ahead = []
    for _ in range(30):
        assert tokens is not None
        ahead.append(tokens)
        tokens = decoder.step([0, 1, 2], tokens, how).tokens
    for slot in range(3):
        decoder.truncate(slot, 20)
    row = [[5], [6], [7]]
    for expected in ahead:
        tokens = decoder.step([0, 1, 2], row, how).tokens
        assert tokens is not None and tokens.tolist() == expected.tolist()
        row = [[t] for t in tokens.tolist()]
