"""Which decoder is taken: the first that serves under `auto`, the one named, or a refusal with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from llms.decoders import Kind, pick
from llms.errors import BadRequest, UnsupportedModel
from llms.load import KINDS, adopt, make_decoder


def kind(name: str, reason: str | None = None) -> Kind:
    def build(*_: Any) -> Any:
        raise AssertionError("choosing builds nothing")

    return Kind(name=name, why_not=lambda loaded: reason, build=build)


LOADED: Any = object()


def test_auto_takes_the_first_that_serves_the_model() -> None:
    kinds = [kind("fast", "it needs a GPU"), kind("middle"), kind("reference")]
    assert pick(kinds, LOADED).name == "middle"
    assert pick([kind("fast"), *kinds], LOADED, "auto").name == "fast"


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
