r"""Parameters: which model to load and how (`LoadSettings`), and how to generate (`GenerationParams`).

Nothing that is asked for is ignored: an option that has no meaning here is refused by name. Importing this
module imports no torch.

    >>> LoadSettings(model="smollm2-135m", device="cpu", window=4096).quantization
    'auto'
    >>> GenerationParams(max_tokens=64).merged({"temperature": 0}, stop=["\n"]).stop
    ('\n',)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import BadRequest
from llms.models.catalog import AUTO
from llms.models.checkpoint import Notify, silent
from llms.models.embedded import Progress, no_progress

if TYPE_CHECKING:
    from llms.engine.request import Constraint, GenerationRequest

_HARMLESS = {"stream", "stream_usage", "user", "ls_structured_output_format", "run_id", "parallel_tool_calls"}
"""Call options of other providers that change nothing about a local model's answer."""

ALIASES = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
}
"""What OpenAI, `transformers`, Ollama and Anthropic call the same options."""


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
    notify: Notify = field(default=silent, compare=False)
    progress: Progress = field(default=no_progress, compare=False)

    @property
    def keeps_adapter(self) -> bool:
        """Return whether an adapter stays a part of its own."""
        return self.adapter is not None and not self.merge_adapter


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationParams:
    """What one call asks of the decoder.

    Attributes:
        max_tokens: Most tokens to generate, >= 1.
        temperature: >= 0; 0 is greedy.
        top_p: In (0, 1].
        top_k: >= 0; 0 is off.
        min_p: In [0, 1].
        repetition_penalty: > 0; 1 is off.
        stop: Stop strings.
        seed: Any int; None draws a fresh one.
        n: Number of answers, >= 1.
        logprobs: Report the log-probability of each token.
        top_logprobs: Alternatives to report, 0 to 20.
        logit_bias: Token id -> added logit, in [-100, 100].
    """

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: Mapping[int, float] | None = None

    def merged(self, overrides: Mapping[str, Any], stop: Sequence[str] | None) -> GenerationParams:
        """Return these parameters with one call's own.

        Raises:
            BadRequest: An option is unknown or out of range.
        """
        known = {field.name for field in fields(self)}
        changes: dict[str, Any] = {}
        for name, value in renamed(overrides, ALIASES).items():
            if name in known:
                changes[name] = value
            elif name not in _HARMLESS and not name.startswith("ls_"):
                raise BadRequest(
                    f"Expected one of the options {sorted(known)!r}, found {name}={value!r}. Leave it out."
                )
        if stop is not None:
            changes["stop"] = stop
        changes = {name: value for name, value in changes.items() if value is not None}
        if "stop" in changes:
            changes["stop"] = stop_strings(changes["stop"])
        if changes.get("top_logprobs"):
            changes.setdefault("logprobs", True)
        merged = replace(self, **changes)
        merged.check()
        return merged

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            BadRequest: With the option, its range, and what was found.
        """
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

    def request(
        self,
        prompt: Sequence[int],
        *,
        decode: Callable[[list[int]], str],
        end_ids: frozenset[int],
        window: int,
        index: int = 0,
        constraint: Constraint | None = None,
    ) -> GenerationRequest:
        """Return the engine's request for answer number `index`."""
        from llms.decoders.sampling import Sampling
        from llms.engine.request import GenerationRequest

        seed = secrets.randbits(63) if self.seed is None else self.seed
        return GenerationRequest(
            prompt=tuple(prompt),
            # What the window leaves is all there can be; the finish reason then is `length`.
            max_tokens=max(1, min(self.max_tokens, window - len(prompt))),
            decode=decode,
            sampling=Sampling(
                temperature=float(self.temperature),
                top_k=self.top_k or 0,
                top_p=1.0 if self.top_p is None else float(self.top_p),
                min_p=self.min_p or 0.0,
                seed=(seed + index * 0x9E3779B9) % 2**63,
            ),
            end_ids=end_ids,
            stops=self.stop,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias={int(k): float(v) for k, v in (self.logit_bias or {}).items()},
            top_logprobs=self.top_logprobs if self.logprobs else None,
            constraint=constraint,
        )


def renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return options by the names that they have here.

    Args:
        options: What a caller gave.
        names: Other name -> the name here.

    Raises:
        BadRequest: One option under two names.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if (mine := names.get(name, name)) in found:
            raise BadRequest(f"Expected {mine} once, found it again as {name}={value!r}. Leave one out.")
        found[mine] = value
    return found


def stop_strings(value: object) -> tuple[str, ...]:
    """Return stop strings as a tuple; one string counts as one.

    Raises:
        BadRequest: Something else was given.
    """
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise BadRequest(f"Expected stop as a string or a list of strings, found {value!r}.")
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
        raise BadRequest(f"Expected {name} to be {expected}, found {value!r}. Set it within that range.")
