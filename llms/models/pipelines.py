"""A text-generation pipeline of transformers, taken apart into what a chat model needs; nothing is copied.

>>> from transformers import pipeline                                         # doctest: +SKIP
>>> pipe = pipeline("text-generation", "my-model", max_new_tokens=256)         # doctest: +SKIP
>>> read_pipeline(pipe).options                                               # doctest: +SKIP
{'max_tokens': 256}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llms.errors import BadRequest, UnsupportedModel
from llms.params import ALIASES, renamed

_TASK = "text-generation"
_KEPT = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_HARMLESS = {
    "assistant_model", "assistant_tokenizer", "batch_size", "bos_token_id", "clean_up_tokenization_spaces",
    "do_sample", "eos_token_id", "generation_config", "num_return_sequences", "pad_token_id", "prefix",
    "return_full_text", "return_text", "return_tensors", "stop_sequence", "tokenizer", "use_cache",
}  # fmt: skip
"""Options of a pipeline that concern its own output, or that are decided otherwise here."""


@dataclass(frozen=True, kw_only=True)
class PipelineParts:
    """What a pipeline holds.

    Attributes:
        model: The model of transformers, shared with the pipeline.
        tokenizer: Its tokenizer.
        options: The pipeline's own parameters of generation, by our names.
    """

    model: Any
    tokenizer: Any
    options: Mapping[str, Any]


def read_pipeline(pipe: Any) -> PipelineParts:
    """Return the model, the tokenizer and the options of a pipeline.

    Args:
        pipe: A text-generation pipeline of transformers, or LangChain's `HuggingFacePipeline` around one.

    Raises:
        BadRequest: It is no such pipeline, has no tokenizer, or was given an option that has no meaning here.
        UnsupportedModel: Its weights are quantized by another method than bitsandbytes'.
    """
    wrapper, inner = (pipe, pipe.pipeline) if getattr(pipe, "pipeline", None) is not None else (None, pipe)
    task, model = getattr(inner, "task", None), getattr(inner, "model", None)
    if model is None or task is None:
        raise BadRequest(
            f"expected a {_TASK} pipeline of transformers, or a HuggingFacePipeline around one, found "
            f"{type(pipe).__name__}; make one with transformers.pipeline({_TASK!r}, ...), or give model and "
            "tokenizer to from_model"
        )
    if task != _TASK:
        raise BadRequest(
            f"expected a pipeline for {_TASK!r}, found one for {task!r}; make it with "
            f"transformers.pipeline({_TASK!r}, ...)"
        )
    if inner.tokenizer is None:
        raise BadRequest(
            "expected a pipeline with a tokenizer, found none; pass tokenizer= when you make the pipeline"
        )
    _check_quantization(model)
    given: dict[str, Any] = {}
    for name in ("_forward_params", "_generate_kwargs"):  # the second since transformers 5
        given |= dict(getattr(inner, name, None) or {})
    if wrapper is not None:
        given |= dict(getattr(wrapper, "pipeline_kwargs", None) or {})
    return PipelineParts(model=model, tokenizer=inner.tokenizer, options=_options(given))


def _check_quantization(model: Any) -> None:
    method = getattr(getattr(model, "config", None), "quantization_config", None)
    name = (
        method.get("quant_method") if isinstance(method, Mapping) else getattr(method, "quant_method", None)
    )
    if method is not None and str(getattr(name, "value", name)) not in ("bitsandbytes", "None"):
        raise UnsupportedModel(
            f"expected weights that are not quantized, or quantized by bitsandbytes, found "
            f"{str(getattr(name, 'value', name))!r}; load the original model with BitsAndBytesConfig"
        )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pipeline's parameters of generation by our names."""
    named = {name: value for name, value in renamed(given, ALIASES).items() if value is not None}
    if named.get("num_beams") == 1:
        del named["num_beams"]
    if unknown := sorted(set(named) - {*_KEPT, *_HARMLESS}):
        raise BadRequest(
            f"expected a pipeline with options among {sorted(_KEPT)!r}, found {unknown!r}, which have no "
            "meaning here; make the pipeline without them, or give its model and tokenizer to from_model"
        )
    found = {name: named[name] for name in _KEPT if name in named}
    if named.get("do_sample") is False:
        found["temperature"] = 0.0
    return found
