"""Loading on a GPU: Mistral's shapes in NF4, memory as planned, and the decoder that is taken."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_checkpoint

from llms.errors import ContextOverflow, NotEnoughMemory
from llms.models import gpu
from llms.models.diagnosis import diagnose
from llms.models.load import LoadedModel, LoadSettings, adopt, choose_model, load, make_decoder
from llms.quiet import quiet

pytestmark = pytest.mark.gpu

MISTRAL: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 2, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768, "max_position_embeddings": 32768,
}  # fmt: skip
TOKENS = [(37 * i) % 300 + 3 for i in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of Mistral-7B's shapes in bf16, random weights."""
    return tiny_checkpoint(tmp_path_factory.mktemp("gpu") / "mistral", dtype=torch.bfloat16, **MISTRAL)


def loaded(folder: Path, cache: Path, **settings: Any) -> LoadedModel:
    return load(LoadSettings(model=str(folder), cache_dir=cache, **{"quantization": "nf4", **settings}))


def article_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            str(folder), quantization_config=config, device_map="auto", dtype=torch.bfloat16
        )


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(torch.tensor([TOKENS], device="cuda")).logits)


def test_nf4_gives_the_logits_of_the_article_s_recipe_kept_or_not(folder: Path, tmp_path: Path) -> None:
    expected = logits(article_model(folder))
    for keep in (False, True, True):  # quantized now, quantized and kept, read back
        ours = loaded(folder, tmp_path, keep_quantized=keep)
        assert ours.device.type == "cuda"
        assert torch.equal(logits(ours.model), expected)


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
def test_every_quantization_runs_and_memory_is_planned(
    folder: Path, tmp_path: Path, quantization: str
) -> None:
    ours = loaded(folder, tmp_path, quantization=quantization, window=2048)
    assert ours.quantization == quantization and ours.memory is not None
    decoder = make_decoder(ours, max_slots=4)
    assert decoder.describe().startswith("fast") is (quantization == "nf4")
    assert bool(decoder.prefill(0, TOKENS).isfinite().all())


def test_a_model_that_is_its_owner_s_still_runs_after_it_was_wrapped(folder: Path) -> None:
    from tiny_models import tiny_tokenizer

    model = article_model(folder)
    before = logits(model)
    decoder = make_decoder(adopt(model, tiny_tokenizer(), window=1024), max_slots=4)
    assert decoder.describe().startswith("fast")
    first = decoder.prefill(0, TOKENS)
    assert torch.equal(logits(model), before)
    difference = (first.log_softmax(-1) - before[0, -1].float().log_softmax(-1)).abs().max()
    assert float(difference) < 0.3  # bf16 rounds otherwise in other kernels


def test_an_adapter_that_is_not_merged_goes_to_the_reference_decoder(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = loaded(folder, tmp_path, keep_quantized=False)
    with quiet():
        model = get_peft_model(base.model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    decoder = make_decoder(adopt(model, base.tokenizer, window=512), max_slots=2)
    assert "reference" in decoder.describe()
    assert bool(decoder.prefill(0, TOKENS).isfinite().all())


def test_auto_finds_the_gpu_and_the_diagnosis_has_nothing_against_it(tmp_path: Path) -> None:
    settings, _ = choose_model(LoadSettings(require_gpu=True), tmp_path)
    assert settings.device.startswith("cuda:")
    found = {finding.name: finding for finding in diagnose()}
    assert all(found[name].ok for name in ("driver", "torch", "gpu", "nf4")), found
    assert gpu.free_gpu_bytes() > 0


def test_a_gpu_that_is_nearly_full_is_refused_with_the_numbers(folder: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - 700 * 2**20, dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(NotEnoughMemory, match=r"needs [\d.]+ GB on cuda:0 .*GB free"):
            loaded(folder, tmp_path, window=32_000)
    finally:
        del held
        torch.cuda.empty_cache()


def test_a_growing_conversation_ends_at_the_window_within_the_plan(folder: Path, tmp_path: Path) -> None:
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

    from llms import ChatLocal

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    chat = ChatLocal(
        model=str(folder), quantization="nf4", temperature=0, max_tokens=4, window=4096, cache_dir=tmp_path
    )
    messages: list[BaseMessage] = []
    with pytest.raises(ContextOverflow, match=r"4,?096"):
        for turn in range(200):
            messages.append(HumanMessage(f"turn {turn}, and a little more to say"))
            messages.append(AIMessage(str(chat.invoke(messages).content)))
    plan = chat.runtime().loaded.memory
    assert plan is not None
    assert torch.cuda.max_memory_reserved() - before == pytest.approx(plan.total, rel=0.1)
