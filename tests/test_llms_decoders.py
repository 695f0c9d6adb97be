"""The choice of a decoder: under `auto` the first that serves, else the named one or a refusal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from llms.errors import BadRequest, UnsupportedModel
from llms.models.load import (
    DECODERS,
    LoadSettings,
    adopt,
    choose_decoder,
    expected_decoders,
    make_decoder,
)


def plan(name: str, reason: str | None = None, expected: str | None = None) -> Any:
    return SimpleNamespace(
        NAME=name,
        supports=lambda checkpoint, settings: expected,
        supports_loaded=lambda loaded: reason,
    )


LOADED: Any = SimpleNamespace(decoder="")


def test_auto_takes_the_first_that_serves_the_model() -> None:
    plans = [plan("fast", "it needs a GPU"), plan("middle"), plan("reference")]
    assert choose_decoder(plans, LOADED).NAME == "middle"
    assert choose_decoder([plan("fast"), *plans], LOADED, "auto").NAME == "fast"


def test_auto_looks_no_further_up_than_the_one_that_memory_was_planned_for() -> None:
    planned: Any = SimpleNamespace(decoder="middle")
    plans = [plan("fast"), plan("middle", "it is a bad day"), plan("reference")]
    assert choose_decoder(plans, planned).NAME == "reference"
    assert choose_decoder(plans, planned, "fast").NAME == "fast"


def test_what_is_expected_is_told_from_the_checkpoint() -> None:
    plans, checkpoint = [plan("fast", expected="it is a bad day"), plan("reference")], cast(Any, None)

    def expected(asked: str) -> list[str]:
        settings = LoadSettings(decoder=asked)
        return [each.NAME for each in expected_decoders(plans, checkpoint, settings)]

    assert expected("auto") == ["reference"]
    assert expected("fast") == ["fast"]
    with pytest.raises(BadRequest, match="turbo"):
        expected("turbo")


@pytest.mark.parametrize(
    ("model_type", "quantization", "dtype", "device", "first"),
    [
        ("mistral", "nf4", "bfloat16", "cuda:0", "fast"),
        ("mistral", "nf4", "float16", "cuda:0", "reference"),
        ("mistral", "none", "bfloat16", "cuda:0", "reference"),
        ("mistral", "nf4", "bfloat16", "cpu", "reference"),
        ("qwen3", "nf4", "bfloat16", "cuda:0", "reference"),
    ],
)
def test_memory_is_planned_for_the_decoder_that_will_run(
    model_type: str, quantization: str, dtype: str, device: str, first: str
) -> None:
    checkpoint: Any = SimpleNamespace(config={"model_type": model_type}, gguf=None)
    settings = LoadSettings(quantization=quantization, dtype=dtype, device=device, window=512)
    names = [each.NAME for each in expected_decoders(DECODERS, checkpoint, settings)]
    assert next(name for name in names if name in ("fast", "reference")) == first


def test_one_that_was_named_is_taken_though_a_better_one_serves() -> None:
    assert choose_decoder([plan("fast"), plan("reference")], LOADED, "reference").NAME == "reference"


def test_one_that_was_named_and_does_not_serve_is_refused_with_its_reason() -> None:
    with pytest.raises(UnsupportedModel, match=r"fast decoder serves, found: it needs a GPU; .*'reference'"):
        choose_decoder([plan("fast", "it needs a GPU"), plan("reference")], LOADED, "fast")


def test_a_name_that_no_decoder_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadRequest, match="auto, fast, reference, found 'turbo'"):
        choose_decoder([plan("fast"), plan("reference")], LOADED, "turbo")


def test_the_last_of_the_real_ones_serves_every_model_and_no_name_stands_twice() -> None:
    names = [each.NAME for each in DECODERS]
    assert names[-1] == "reference" and len(set(names)) == len(names)
    assert DECODERS[-1].supports_loaded(adopt(tiny_model(), tiny_tokenizer())) is None


def test_on_the_cpu_the_gpu_s_decoder_says_that_it_needs_a_gpu() -> None:
    loaded = adopt(tiny_model(), tiny_tokenizer())
    with pytest.raises(UnsupportedModel, match="needs a CUDA GPU, the model is on cpu"):
        make_decoder(loaded, kind="fast")
    assert make_decoder(loaded, max_slots=2, kind="reference").max_slots == 2
