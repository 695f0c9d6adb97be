r"""Parameters: which model to load and how (`LoadSettings`), and how to generate (`GenerationParams`).

Nothing that is asked for is ignored: an option that has no meaning here is refused by name. Importing this
module imports no torch.

    >>> LoadSettings(model="smollm2-135m", device="cpu", window=4096).quantization
    'auto'
    >>> GenerationParams(max_tokens=64).merged({"temperature": 0}, stop=["\n"]).stops
    ('\n',)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from llms.errors import BadRequest
from llms.models.catalog import AUTO
from llms.models.checkpoint import Notify, Progress, no_progress, silent

_WITHOUT_EFFECT = {
    "stream",
    "stream_usage",
    "user",
    "ls_structured_output_format",
    "run_id",
    "parallel_tool_calls",
}
"""Call options of other providers that do not change the answer of a local model."""

ALIASES = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
}
"""Names of the same options in the APIs of OpenAI, `transformers`, Ollama and Anthropic."""


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """What to load and how. Equal settings share one loaded model, so they are hashable.

    Attributes:
        model: `auto`, a catalog name, a Hub id, a checkpoint folder or a GGUF file.
        quantization: `auto`, `nf4`, `fp4`, `int8` or `none`.
        dtype: `bfloat16`, `float16` or `float32`, for the computation and for weights that are not quantized.
            None: bfloat16, or float16 on a GPU without it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        revision: Branch, tag or commit of a Hub repository.
        adapter: Folder of a PEFT adapter.
        merge_adapter: Fold the adapter into the weights, which is faster and cannot be undone.
        window: Longest sequence in tokens. None: the longest that the model was made for and memory allows.
        slots: Number of sequences at the full window that the memory plan makes room for.
        decoder: `auto`, or the name of the decoder to plan memory for.
        cache_dir: Root of the cache; None for the platform's.
        keep_quantized: Whether to keep a 4-bit checkpoint in the cache. None: from a billion weights on.
        require_gpu: Refuse to run on the CPU.
        download: Fetch a model that is not on this machine. The embedded one is always fetched.
        notify: Receives a line for the user.
        progress: Receives the progress of downloads.
    """

    model: str = AUTO
    quantization: str = AUTO
    dtype: str | None = None
    device: str = AUTO
    revision: str | None = None
    adapter: str | Path | None = None
    merge_adapter: bool = False
    window: int | None = None
    slots: int = 1
    decoder: str = AUTO
    cache_dir: Path | None = None
    keep_quantized: bool | None = None
    require_gpu: bool = False
    download: bool = field(default=False, compare=False)
    notify: Notify = field(default=silent, compare=False)
    progress: Progress = field(default=no_progress, compare=False)

    @property
    def keeps_adapter(self) -> bool:
        """Return whether an adapter stays a part of its own."""
        return self.adapter is not None and not self.merge_adapter


class GenerationFields(BaseModel):
    """The parameters of an answer: fields of a chat model, of a completion model, and of one call."""

    max_tokens: int = 512
    """Maximum number of tokens of an answer, at least 1."""
    temperature: float = 0.7
    """0 always takes the most probable token; higher values vary more. From 0 to 10."""
    top_p: float | None = None
    """Sample only from the most probable tokens that together reach this probability. In (0, 1]."""
    top_k: int | None = None
    """Sample only from this many most probable tokens. 0 switches it off."""
    min_p: float | None = None
    """Sample only from tokens at least this fraction as probable as the most probable one. From 0 to 1."""
    repetition_penalty: float | None = None
    """Values above 1 make tokens that the text already has less probable. 1 switches it off."""
    stop: list[str] | str | None = None
    """Strings that end an answer. They are not part of it."""
    seed: int | None = None
    """The same seed samples the same answer. None draws a new seed for each call."""
    n: int = 1
    """Number of answers per call, from 1 to 64."""
    logprobs: bool = False
    """Report the log-probability of each token."""
    top_logprobs: int = 0
    """Number of alternatives to report for each token, from 0 to 20. It switches `logprobs` on."""
    logit_bias: dict[int, float] | None = None
    """Values from -100 to 100 that are added to the logits of single tokens, by token id."""


class GenerationParams(GenerationFields):
    """The parameters of one call: a model's own, with what the call overrides.

    >>> params = GenerationParams(max_tokens=64).merged({"temperature": 0, "num_predict": 8}, stop="###")
    >>> params.max_tokens, params.temperature, params.stops
    (8, 0, ('###',))
    """

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, source: GenerationFields) -> GenerationParams:
        """Return the parameters that are fields of a model."""
        values = {name: getattr(source, name) for name in GenerationFields.model_fields}
        values["logprobs"] = values["logprobs"] or values["top_logprobs"] > 0
        return cls.model_construct(**values)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; there may be none."""
        return stop_strings(self.stop) if self.stop is not None else ()

    def merged(self, overrides: Mapping[str, Any], stop: Sequence[str] | str | None) -> GenerationParams:
        """Return these parameters with those of one call.

        Args:
            overrides: Call options, by our names or those of other providers. None leaves a parameter as it
                is.
            stop: The stop strings of the call.

        Raises:
            BadRequest: An option is unknown or out of range.
        """
        known = GenerationFields.model_fields
        changes: dict[str, Any] = {}
        for name, value in renamed(overrides, ALIASES).items():
            if name in known:
                changes[name] = value
            elif name not in _WITHOUT_EFFECT and not name.startswith("ls_"):
                raise BadRequest(
                    f"expected one of the options {sorted(known)!r}, found {name}={value!r}; leave it out"
                )
        if stop is not None:
            changes["stop"] = stop
        changes = {name: value for name, value in changes.items() if value is not None}
        if "stop" in changes:
            changes["stop"] = list(stop_strings(changes["stop"]))
        if changes.get("top_logprobs"):
            changes.setdefault("logprobs", True)
        merged = self.model_copy(update=changes)
        merged.check()
        return merged

    def ending_at(self, stops: Sequence[str]) -> GenerationParams:
        """Return these parameters with additional stop strings."""
        return self.model_copy(update={"stop": [*self.stops, *stops]})

    def check(self) -> None:
        """Raise `BadRequest` if a parameter is out of range. The message names it and its range."""
        _check("max_tokens", self.max_tokens, int, "an int >= 1", lambda v: v >= 1)
        _check("temperature", self.temperature, (int, float), "a number from 0 to 10", lambda v: 0 <= v <= 10)
        _check("top_p", self.top_p, (int, float), "a number in (0, 1]", lambda v: 0 < v <= 1)
        _check("top_k", self.top_k, int, "an int >= 0", lambda v: v >= 0)
        _check("min_p", self.min_p, (int, float), "a number from 0 to 1", lambda v: 0 <= v <= 1)
        _check("repetition_penalty", self.repetition_penalty, (int, float), "a number > 0", lambda v: v > 0)
        _check("seed", self.seed, int, "an int", lambda v: True)
        _check("n", self.n, int, "an int from 1 to 64", lambda v: 1 <= v <= 64)
        _check("top_logprobs", self.top_logprobs, int, "an int from 0 to 20", lambda v: 0 <= v <= 20)
        for token, bias in (self.logit_bias or {}).items():
            _check(f"logit_bias[{token!r}]", bias, (int, float), "-100 to 100", lambda v: -100 <= v <= 100)


def renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return options under our names.

    >>> renamed({"num_predict": 8}, ALIASES)
    {'max_tokens': 8}

    Args:
        options: Options under any names.
        names: Our name for each other name.

    Raises:
        BadRequest: One option is given under two names.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if (mine := names.get(name, name)) in found:
            raise BadRequest(f"expected {mine} once, found it again as {name}={value!r}; leave one out")
        found[mine] = value
    return found


def stop_strings(value: object) -> tuple[str, ...]:
    """Return one or several stop strings as a tuple, without empty ones.

    Raises:
        BadRequest: The value is neither a string nor a list of strings.
    """
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise BadRequest(f"expected stop as a string or a list of strings, found {value!r}; give either")
    return tuple(v for v in values if v)


def _check(
    name: str,
    value: Any,
    kind: type | tuple[type, ...],
    expected: str,
    valid: Callable[[Any], bool],
) -> None:
    if value is None:
        return
    right = isinstance(value, kind) and not isinstance(value, bool) and value == value
    if not right or not valid(value):
        raise BadRequest(f"expected {name} to be {expected}, found {value!r}; set it within that range")
