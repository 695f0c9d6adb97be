"""The fields that every local model class has: what to load, and how to generate.

Knows field names, defaults and the variables they may come from (LangChain's convention for models); refuses
to know LangChain's chat and completion interfaces. Importing it imports no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.load.serializable import Serializable
from langchain_core.utils import from_env
from pydantic import Field

from llms.chat_params import ALIASES, GenerationParams, renamed, stop_strings
from llms.errors import BadRequest

if TYPE_CHECKING:
    from llms.engine.shared import Runtime
    from llms.load import LoadSpec
    from llms.protocols import Prompt, ScoreRequest

_UNUSED = {"api_key", "base_url", "timeout", "max_retries", "stream_usage"}
"""Standard LangChain parameters that a model in this process has no use for."""

_NAMES = ALIASES | {"model_name": "model", "num_ctx": "window"}
"""What other chat models call these fields."""

_NO_ANSWER = {"notify", "adopted", "cache_dir", "streaming", "require_gpu", "max_slots"}
"""Fields that change no answer."""


def to_stderr(line: str) -> None:
    """Write a notice for the user where it does not mix with the answer."""
    sys.stderr.write(f"{line}\n")


def _cache_from_env() -> str | None:
    home = os.environ.get("AGENT_HOME")
    folder = os.environ.get("AGENT_CACHE_DIR")
    if folder == "platform":  # as the command line reads it: the platform's own, whatever AGENT_HOME says
        return None
    return folder or (str(Path(home) / "cache") if home else None)


class LocalFields(Serializable):
    """Fields and loading of a local model; see the attributes' own docstrings."""

    model: str = Field(default_factory=from_env("AGENT_MODEL", default="auto"))
    """`auto`, a catalog name, a Hub id, a checkpoint folder or a GGUF file."""
    quantization: str = Field(default_factory=from_env("AGENT_QUANTIZATION", default="auto"))
    """`auto`, `nf4`, `fp4`, `int8` or `none`."""
    dtype: str | None = None
    """`bfloat16`, `float16` or `float32`; None lets the device decide."""
    device: str = Field(default_factory=from_env("AGENT_DEVICE", default="auto"))
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    require_gpu: bool = False
    """Refuse to run on the CPU."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""
    adapter: str | None = None
    """Folder of a PEFT adapter."""
    merge_adapter: bool = False
    """Fold the adapter into the weights: faster, and on a GPU what the fast decoder needs."""
    window: int | None = None
    """Longest sequence in tokens; None for what model and memory allow."""
    cache_dir: str | Path | None = Field(default_factory=_cache_from_env)
    """Root of the checkpoint cache; None for the platform's."""
    decoder: str = Field(default_factory=from_env("AGENT_DECODER", default="auto"))
    """`auto`, `reference`, `lean` (small models on a CPU) or `fast` (NF4 on a GPU)."""
    max_slots: int = 64
    """Sequences that have KV at once, cached prefixes included."""

    max_tokens: int = 512
    """Most tokens of an answer."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float | None = None
    """Keep the most probable tokens that together reach this mass."""
    top_k: int | None = None
    """Keep the k most probable tokens."""
    min_p: float | None = None
    """Keep tokens at least this fraction as probable as the most probable one."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that were seen before less likely."""
    stop: list[str] | str | None = None
    """Strings that end an answer and are no part of it."""
    seed: int | None = None
    """Repeats a run; None draws a fresh one each call."""
    n: int = 1
    """Answers a call."""
    logprobs: bool = False
    """Report the log-probability of each token."""
    top_logprobs: int = 0
    """How many alternatives to report beside it."""
    logit_bias: dict[int, float] | None = None
    """Token id -> added logit."""
    streaming: bool = False
    """Stream to callbacks also where the caller invokes."""
    notify: Callable[[str], None] = Field(default=to_stderr, exclude=True, repr=False)
    """Takes a line for the user (which model was taken, and why)."""

    adopted: Any = Field(default=None, exclude=True, repr=False)
    """The loaded model that `from_model` wraps; a field, so that LangChain's copies of a model keep it."""

    def __init__(self, **kwargs: Any) -> None:
        """Check names and ranges before anything is loaded.

        Raises:
            BadRequest: An unknown parameter, or a value out of range.
        """
        fields = type(self).model_fields
        known = {*fields, *(field.alias for field in fields.values() if field.alias)}
        kwargs = {name: value for name, value in kwargs.items() if name in known or name not in _UNUSED}
        kwargs = renamed(kwargs, _NAMES)
        if unknown := sorted(set(kwargs) - known):
            raise BadRequest(
                f"Expected parameters among {sorted(known)!r}, found {unknown!r}. Leave them out."
            )
        super().__init__(**kwargs)
        self.params().check()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Settings can be saved and loaded; weights are found again by name."""
        return True

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **kwargs: Any) -> Self:
        """Wrap a `transformers` or PEFT model that is already loaded.

        Args:
            model: A causal language model on its device.
            tokenizer: Its tokenizer; chat needs its chat template.
            **kwargs: Fields of this class; `model` names it, `window` shortens its window.

        Raises:
            BadRequest: A parameter out of range, or weights on no device.
            UnsupportedModel: An architecture without a plain KV cache.
        """
        from llms.engine.shared import Runtime
        from llms.load import adopt

        loaded = adopt(model, tokenizer, name=kwargs.pop("model", None), window=kwargs.get("window"))
        checked = cls(model=loaded.name, **kwargs)
        runtime = Runtime(loaded, decoder=checked.decoder, max_slots=checked.max_slots)
        return cls(model=loaded.name, adopted=runtime, **kwargs)

    def runtime(self, model: str | None = None) -> Runtime:
        """Return the loaded model, loading it on first use.

        Args:
            model: Another model under the same settings.

        Raises:
            LLMError: What loading raises.
        """
        from llms.engine.shared import shared

        if self.adopted is not None and model in (None, self.model):
            runtime: Runtime = self.adopted
            return runtime
        return shared(self.load_spec(model), decoder=self.decoder, max_slots=self.max_slots)

    def loaded_runtime(self) -> Runtime | None:
        """Return the loaded model where something has needed it already; loads nothing."""
        from llms.engine.shared import find_shared

        if self.adopted is not None:
            adopted: Runtime = self.adopted
            return adopted
        return find_shared(self.load_spec(), decoder=self.decoder, max_slots=self.max_slots)

    def load_spec(self, model: str | None = None) -> LoadSpec:
        """Return what to load, for this model or for another one under the same settings."""
        from llms.load import LoadSpec

        return LoadSpec(
            model=model or self.model,
            quantization=self.quantization,
            dtype=self.dtype,
            device=self.device,
            revision=self.revision,
            adapter=self.adapter,
            merge_adapter=self.merge_adapter,
            window=self.window,
            decoder=self.decoder,
            cache_dir=Path(self.cache_dir) if self.cache_dir else None,
            require_gpu=self.require_gpu,
            notify=self.notify,
        )

    def params(self) -> GenerationParams:
        """Return the generation parameters of this model."""
        return GenerationParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=stop_strings(self.stop) if self.stop is not None else (),
            seed=self.seed,
            n=self.n,
            logprobs=self.logprobs or self.top_logprobs > 0,
            top_logprobs=self.top_logprobs,
            logit_bias=self.logit_bias,
        )

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each continuation; see `llms.protocols.Scorer`."""
        return self.runtime().score_many([(prompt, continuations)])[0]

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Score many prompts in one batch; see `llms.protocols.Scorer`."""
        return self.runtime().score_many(requests)

    def cache_key(self) -> str:
        """Return what tells this model's answers from another's in LangChain's caches.

        LangChain's own key forgets what was changed in a copy (`model_copy`) or after the first call.
        """
        shown = {name: getattr(self, name) for name in LocalFields.model_fields if name not in _NO_ANSWER}
        return f"{shown!r}, {self.adopted.identity if self.adopted is not None else None}"
