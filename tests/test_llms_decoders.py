"""Which decoder is taken: the first that serves under `auto`, the one named, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from llms.errors import BadRequest, UnsupportedModel
from llms.models.load import KINDS, Kind, adopt, expected, make_decoder, pick
from llms.models.memory import Setting


def kind(name: str, reason: str | None = None) -> Kind:
    def build(*_: Any) -> Any:
        raise AssertionError("choosing builds nothing")

    return Kind(name=name, why_not=lambda loaded: reason, build=build)


LOADED: Any = SimpleNamespace(decoder="")


def test_auto_takes_the_first_that_serves_the_model() -> None:
    kinds = [kind("fast", "it needs a GPU"), kind("middle"), kind("reference")]
    assert pick(kinds, LOADED).name == "middle"
    assert pick([kind("fast"), *kinds], LOADED, "auto").name == "fast"


def test_auto_looks_no_further_up_than_the_one_that_memory_was_planned_for() -> None:
    planned: Any = SimpleNamespace(decoder="middle")
    kinds = [kind("fast"), kind("middle", "it is a bad day"), kind("reference")]
    assert pick(kinds, planned).name == "reference"
    assert pick(kinds, planned, "fast").name == "fast"


def test_what_is_expected_is_told_from_the_checkpoint() -> None:
    never = replace(kind("fast"), expects=lambda facts, setting: False)
    kinds, facts = [never, kind("reference")], SimpleNamespace()
    assert [each.name for each in expected(kinds, cast(Any, facts), cast(Any, None))] == ["reference"]
    assert [each.name for each in expected(kinds, cast(Any, facts), cast(Any, None), "fast")] == ["fast"]
    with pytest.raises(BadRequest, match="turbo"):
        expected(kinds, cast(Any, facts), cast(Any, None), "turbo")


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
    facts: Any = SimpleNamespace(config={"model_type": model_type})
    setting = Setting(quantization=quantization, dtype=dtype, device=device, window=512)
    assert next(k.name for k in expected(KINDS, facts, setting) if k.name in ("fast", "reference")) == first


def test_one_that_was_named_is_taken_though_a_better_one_serves() -> None:
    assert pick([kind("fast"), kind("reference")], LOADED, "reference").name == "reference"


def test_one_that_was_named_and_does_not_serve_is_refused_with_its_reason() -> None:
    with pytest.raises(UnsupportedModel, match=r"fast decoder serves, found: it needs a GPU; .*'reference'"):
        pick([kind("fast", "it needs a GPU"), kind("reference")], LOADED, "fast")


def test_a_name_that_no_decoder_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadRequest, match="auto, fast, reference, found 'turbo'"):
        pick([kind("fast"), kind("reference")], LOADED, "turbo")


def test_the_last_of_the_real_ones_serves_every_model_and_no_name_stands_twice() -> None:
    names = [each.name for each in KINDS]
    assert names[-1] == "reference" and len(set(names)) == len(names)
    assert KINDS[-1].why_not(adopt(tiny_model(), tiny_tokenizer())) is None


def test_on_the_cpu_the_gpu_s_decoder_says_that_it_needs_a_gpu() -> None:
    loaded = adopt(tiny_model(), tiny_tokenizer())
    with pytest.raises(UnsupportedModel, match="needs a CUDA GPU, the model is on cpu"):
        make_decoder(loaded, kind="fast")
    assert make_decoder(loaded, max_slots=2, kind="reference").max_slots == 2
