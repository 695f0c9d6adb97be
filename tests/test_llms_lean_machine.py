"""The lean decoder's machine code: logits of all it serves, the same bits in any batch, the compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from test_llms_lean_codes import TestLeanInFourBits as OperatorsContract
from test_llms_lean_codes import four_bit_model  # noqa: F401  the fixture `model`
from tiny_models import tiny_model
from torch import Tensor, nn

from llms import lean_compiler
from llms.decoder import Decoder
from llms.lean import LeanDecoder
from llms.lean_compiler import NEEDS, code
from llms.lean_pack import BITS, BLOCK, LANES, eight_bit_codes, on_eight_bits, pack
from llms.lean_plan import suits
from llms.reference import ReferenceDecoder
from llms.sampling import Sampling

needs_code = pytest.mark.skipif(code() is None, reason="no g++, or a CPU without AVX512-BF16")

Q4, Q8 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def random(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def rounded(weight: Tensor, kind: GGMLQuantizationType | None) -> Tensor:
    """Weights as a GGUF file of that kind has them, converted to bf16."""
    if kind is None:
        return weight.bfloat16()
    values = quants.dequantize(quants.quantize(weight.float().numpy(), kind), kind)
    return torch.from_numpy(values.astype(np.float32)).bfloat16()


def unpack(blocks: Tensor) -> Tensor:
    """Weights fp32 [rows, width], read off the blocks one by one, as the source's head describes them."""
    groups, count, size = blocks.shape
    found = torch.zeros(groups * LANES, count * BLOCK)
    for g in range(groups):
        for b in range(count):
            raw = blocks[g, b].numpy()
            for row in range(LANES):
                for k in range(BLOCK):
                    found[g * LANES + row, b * BLOCK + k] = _weight(raw, BITS[size], row, k)
    return found


def _weight(raw: np.ndarray, bits: int, row: int, k: int) -> float:
    if bits == 16:
        word = raw.view(np.uint16)[32 * (k // 2) + 2 * row + k % 2]
        return float(np.array(int(word) << 16, np.uint32).view(np.float32))
    if bits == 8:
        return float(raw.view(np.int8)[32 * (k // 2) + 2 * row + k % 2]) * float(
            raw[512:].view(np.float16)[row]
        )
    q, p, j = k // 8, k % 8 // 2, k % 2
    nibble = int(raw[:256].view(np.uint32)[16 * q + row]) >> (4 * p + 16 * j) & 15
    return nibble * float(raw[256:288].view(np.float16)[row]) + float(raw[288:].view(np.float16)[row])


@pytest.mark.parametrize(("kind", "size"), [(Q4, 320), (Q8, 544), (None, 1024)])
def test_weights_are_packed_in_as_few_bits_as_lose_nothing(kind: Any, size: int) -> None:
    weights = [rounded(random(rows, 64, rows), kind) for rows in (32, 16, 32 if kind is Q4 else 21)]
    count = sum(len(w) for w in weights)
    blocks = pack(weights)
    assert blocks.shape == (5, 2, size)  # rows are filled up to 80
    expected = torch.cat(weights).float()
    found = unpack(blocks)
    assert not found[count:].any()
    assert (found[:count] - expected).norm() <= (0 if kind is None else 0.003) * expected.norm()


def test_a_matrix_of_another_kind_beside_takes_the_bits_it_needs() -> None:
    four, eight = rounded(random(32, 64), Q4), rounded(random(32, 64, 1), Q8)
    assert pack([four, four]).shape[-1] == 320
    assert pack([four, random(32, 64).bfloat16()]).shape[-1] == 1024
    assert on_eight_bits(eight) and not on_eight_bits(random(32, 64).bfloat16())
    assert not on_eight_bits(eight[:, :48].contiguous()) and not on_eight_bits(eight.float())


def test_codes_of_eight_bits_are_the_file_s() -> None:
    values = random(32, 64).numpy()
    stored = quants.quantize(values, Q8).reshape(32, -1, 34)
    weight = torch.from_numpy(quants.dequantize(stored.reshape(32, -1), Q8)).bfloat16()
    codes, scales = eight_bit_codes(weight)
    assert (codes.view(32, 2, 32).numpy() == stored[:, :, 2:].view(np.int8)).mean() > 0.99
    of_file = torch.from_numpy(stored[:, :, :2].copy().view(np.float16)[..., 0].astype(np.float32))
    torch.testing.assert_close(scales, of_file, rtol=0.002, atol=0)
    assert not eight_bit_codes(torch.zeros(16, 32))[0].any()


class TestMachineCode(OperatorsContract):
    """The same contract over the same model."""

    machine = True

    @pytest.fixture
    def decoder(self, model: Any) -> Decoder:
        if code() is None:
            pytest.skip("no g++, or a CPU without AVX512-BF16")
        decoder = LeanDecoder(model, max_slots=16)
        assert "machine code" in decoder.describe()
        return decoder


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
}


def model_of(kind: GGMLQuantizationType | None, **changes: Any) -> Any:
    found = tiny_model(dtype=torch.bfloat16, **{"head_dim": 32} | changes)
    for linear in (m for m in found.modules() if isinstance(m, nn.Linear)):
        linear.weight.data = rounded(linear.weight.detach(), kind)
    return found


@needs_code
@pytest.mark.parametrize("kind", [Q4, Q8, None])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_in_fp32_and_the_same_bits_in_any_batch(
    name: str, kind: Any
) -> None:
    model = model_of(kind, **MODELS[name])
    lean = LeanDecoder(model, max_slots=6, machine=True)
    texts = [[(7 * i + 3 * j) % 250 for i in range(24 + 5 * j)] for j in range(5)]
    alone = []
    for ids in texts:
        lean.free(5)
        alone.append(lean.step([5], [ids], all_logits=True).logits[0])
    done = [0] * 5
    for counts in ((1, 9, 2, 17, 3), (5, 1, 1, 1, 1), (1, 1, 1, 1, 1), (3, 3, 3, 3, 3), (14, 15, 27, 17, 36)):
        given = [ids[at : at + k] for ids, at, k in zip(texts, done, counts, strict=True)]
        rows = lean.step([4, 0, 3, 1, 2], given, all_logits=True).logits
        for row, at, k, found in zip(alone, done, counts, rows, strict=True):
            assert torch.equal(found, row[at : at + k])
        done = [at + k for at, k in zip(done, counts, strict=True)]
    assert done == [24, 29, 34, 39, 44]
    for ids, found in zip(texts, alone, strict=True):
        with torch.inference_mode():
            exact = model.float()(torch.tensor([ids]), use_cache=False).logits[0]
        assert (found - exact).norm() <= 0.012 * exact.norm()


@needs_code
def test_the_last_logits_of_a_ragged_batch_and_none_at_all(model: Any) -> None:
    lean = LeanDecoder(model, max_slots=4)
    texts = [[1, 2, 3, 4], [5], [6, 7]]
    all_of_them = lean.step([0, 1, 2], texts, all_logits=True).logits
    for slot in range(3):
        lean.free(slot)
    last = lean.step([2, 0, 1], texts).logits
    assert torch.equal(torch.as_tensor(last), torch.stack([rows[-1] for rows in all_of_them]))


@needs_code
def test_the_number_of_threads_changes_no_bit(model: Any) -> None:
    lean, threads = LeanDecoder(model, max_slots=2), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            lean.free(0)
            found.append(lean.prefill(0, list(range(40))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_code
def test_the_same_seed_draws_the_same_alone_and_in_a_batch(model: Any) -> None:
    lean = LeanDecoder(model, max_slots=8)
    prompts = [[(5 * i + j) % 250 for i in range(4 + j)] for j in range(6)]
    how = [Sampling(temperature=1.0, top_p=0.95, seed=seed) for seed in range(6)]
    together = lean.step(list(range(6)), prompts, how).tokens
    assert together is not None
    for index in range(6):
        lean.free(7)
        assert torch.equal(
            torch.as_tensor(lean.step([7], [prompts[index]], [how[index]]).tokens),
            together[index : index + 1],
        )


@needs_code
@pytest.mark.parametrize("kind", [Q4, Q8, None])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_damage_shows_in_the_logits(kind: Any, value: float) -> None:
    model = model_of(kind)
    model.model.layers[1].mlp.down_proj.weight.data[3, 40] = value
    assert not LeanDecoder(model).prefill(0, [1, 2, 3]).isfinite().all()


@needs_code
def test_a_long_row_of_scores_keeps_its_softmax() -> None:
    model = tiny_model(dtype=torch.bfloat16, head_dim=32, max_position_embeddings=4096)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 400  # scores in the thousands
    ids = [(i * i) % 259 for i in range(1500)]
    found = LeanDecoder(model).prefill(0, ids)
    with torch.inference_mode():
        exact = model.float()(torch.tensor([ids]), use_cache=False).logits[0, -1]
    assert found.isfinite().all() and (found - exact).norm() <= 0.2 * exact.norm()


def test_shapes_it_was_not_written_for_go_to_the_operators() -> None:
    odd = tiny_model(dtype=torch.bfloat16, hidden_size=48, num_attention_heads=4, num_key_value_heads=4)
    assert not suits(odd.config.to_dict()) and suits(tiny_model(head_dim=32).config.to_dict())
    assert not suits(tiny_model(head_dim=16).config.to_dict())
    assert not suits(tiny_model(head_dim=160).config.to_dict())
    assert "own forward pass" in LeanDecoder(odd).describe()
    assert (
        "own forward pass" in LeanDecoder(tiny_model(head_dim=32)).describe()
    )  # fp32: exactness is its point


def test_without_compiler_or_instructions_there_is_no_code(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llms.lean_compiler._cpu", lambda: NEEDS)
    for name, value, reason in (
        ("shutil.which", lambda _: None, "no g++ on the path"),
        ("_cpu", lambda: NEEDS - {"avx512_bf16"}, "a CPU without avx512_bf16"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"llms.lean_compiler.{name}", value)
            code.cache_clear()
            assert code(tmp_path) is None and not list(tmp_path.iterdir())
            described = LeanDecoder(model).describe()
            assert described == f"lean (own forward pass, 4-bit weights; no machine code: {reason}) on cpu"
    monkeypatch.setattr("llms.lean.code", lambda: None)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/g++")
    assert "no machine code: g++ failed" in LeanDecoder(model).describe()


@needs_code
def test_code_is_compiled_once_and_a_failure_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    run = subprocess.run
    monkeypatch.setattr("subprocess.run", lambda *args, **how: calls.append(args) or run(*args, **how))
    broken = tmp_path / "broken.cpp"
    broken.write_text("int main( {")
    monkeypatch.setattr(lean_compiler, "SOURCE", broken)
    for _ in range(2):
        code.cache_clear()
        assert code(tmp_path / "kernels") is None
    assert len(calls) == 1
    broken.write_text('extern "C" int lean_pass() { return 7; }')
    for _ in range(2):
        code.cache_clear()
        found = code(tmp_path / "kernels")
        assert found is not None and found.lean_pass() == 7
    assert len(calls) == 2 and len(list((tmp_path / "kernels").iterdir())) == 2


@needs_code
def test_a_compiler_that_hangs_leaves_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_compiler, "COMPILE_TIMEOUT_S", 0.001)
    code.cache_clear()
    assert code(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_leaves_the_operators(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code.cache_clear()
    assert code(tmp_path / "file" / "kernels") is None


@pytest.fixture(autouse=True)
def fresh() -> Any:
    """Leave no other folder's code behind."""
    yield
    code.cache_clear()


@needs_code
def test_after_a_chat_s_markers_it_is_nearer_to_fp32_than_transformers_in_bf16(
    embedded: Any, embedded_cache: Path
) -> None:
    """Markers have activations a thousand times the others': 8 bits for those lost the answer."""
    from llms.load import LoadSpec, load

    loaded = load(LoadSpec(model="smollm2-135m", dtype="bfloat16", device="cpu", cache_dir=embedded_cache))
    for question in ("What is the capital of France?", "How do I boil an egg?"):
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        exact, theirs, ours = (
            kind(model).prefill(0, ids)
            for kind, model in (
                (ReferenceDecoder, embedded.model),
                (ReferenceDecoder, loaded.model),
                (LeanDecoder, loaded.model),
            )
        )
        assert (ours - exact).norm() <= (theirs - exact).norm()  # 0.16 and 0.53 of it; with 8 bits 2.7
