"""`LocalModel`: what the chat model and the completion model share: fields, loading, the runtime, scores."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.load.serializable import Serializable
from langchain_core.utils import from_env
from pydantic import Field

from llms.errors import BadRequest
from llms.models.checkpoint import Progress, no_progress
from llms.params import ALIASES, GenerationFields, GenerationParams, LoadSettings, renamed

if TYPE_CHECKING:
    from llms.protocols import Prompt, ScoreRequest
    from llms.runtime import Runtime

_LOAD_FIELDS = {field.name for field in fields(LoadSettings)}

_UNUSED = {"api_key", "base_url", "timeout", "max_retries", "stream_usage"}
"""Standard parameters of LangChain that have no meaning for a model in this process."""

_NAMES = ALIASES | {"model_name": "model", "num_ctx": "window"}
"""Names of our fields in other chat models."""

_WITHOUT_EFFECT_ON_ANSWERS = {
    "notify",
    "progress",
    "adopted",
    "cache_dir",
    "streaming",
    "require_gpu",
    "max_slots",
    "download",
}


def to_stderr(line: str) -> None:
    """Write a line for the user to stderr, so that it does not mix with the answer."""
    sys.stderr.write(f"{line}\n")


def _cache_from_env() -> str | None:
    home = os.environ.get("AGENT_HOME")
    folder = os.environ.get("AGENT_CACHE_DIR")
    if folder == "platform":  # The platform's own folder, whatever AGENT_HOME says.
        return None
    return folder or (str(Path(home) / "cache") if home else None)


class LocalModel(GenerationFields, Serializable):
    """The fields and methods that `ChatLocal` and `LocalLLM` share.

    Fields with a variable in their default read it when the model is made (`AGENT_MODEL`, ...).
    """

    model: str = Field(default_factory=from_env("AGENT_MODEL", default="auto"))
    """`auto`, a catalog name, a Hub id, a checkpoint folder or a GGUF file."""
    quantization: str = Field(default_factory=from_env("AGENT_QUANTIZATION", default="auto"))
    """`auto`, `nf4`, `fp4`, `int8` or `none`."""
    dtype: str | None = None
    """`bfloat16`, `float16` or `float32`. None lets the device decide."""
    device: str = Field(default_factory=from_env("AGENT_DEVICE", default="auto"))
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    require_gpu: bool = False
    """Raise an error instead of running on the CPU."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""
    adapter: str | None = None
    """Folder of a PEFT adapter."""
    merge_adapter: bool = False
    """Fold the adapter into the weights, which is faster and which the fast decoder on a GPU requires."""
    window: int | None = None
    """Length of the context window in tokens. None: as long as the model and the memory allow."""
    cache_dir: str | Path | None = Field(default_factory=_cache_from_env)
    """Root of the checkpoint cache. None: the platform's cache folder."""
    decoder: str = Field(default_factory=from_env("AGENT_DECODER", default="auto"))
    """`auto`, `reference`, `lean` (small models on a CPU) or `fast` (NF4 on a GPU)."""
    max_slots: int = 64
    """Maximum number of sequences with KV at once, including cached prefixes."""
    cache_bytes: int | None = Field(
        default_factory=lambda: int(found) if (found := os.environ.get("AGENT_CACHE_BYTES")) else None
    )
    """Maximum size of the KV that is kept for prompts that begin alike, in bytes. None: the default of
    `llms.models.memory.IDLE_CACHE_BYTES`. It applies to all instances that share the model, and the value
    that was used last counts."""
    streaming: bool = False
    """Stream to callbacks even if the caller uses `invoke`."""
    download: bool = False
    """Download a model that is not on this machine. Without it only the tiny model is downloaded (93 MB)."""
    progress: Progress = Field(default=no_progress, exclude=True, repr=False)
    """Receives the progress of a download: what is fetched, bytes so far, bytes in total."""
    notify: Callable[[str], None] = Field(default=to_stderr, exclude=True, repr=False)
    """Receives a line for the user, for example which model was chosen and why."""

    adopted: Any = Field(default=None, exclude=True, repr=False)
    """The runtime that `from_model` made. It is a field because LangChain's copies keep fields only."""

    def __init__(self, **kwargs: Any) -> None:
        """Check names and ranges before anything is loaded.

        Raises:
            BadRequest: A parameter is unknown or out of range.
        """
        own = type(self).model_fields
        known = {*own, *(field.alias for field in own.values() if field.alias)}
        kwargs = {name: value for name, value in kwargs.items() if name in known or name not in _UNUSED}
        kwargs = renamed(kwargs, _NAMES)
        if unknown := sorted(set(kwargs) - known):
            raise BadRequest(f"expected parameters of {sorted(known)!r}, found {unknown!r}; leave them out")
        super().__init__(**kwargs)
        self.params().check()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: settings can be saved and loaded, and weights are found again by their name."""
        return True

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **kwargs: Any) -> Self:
        """Return a model that wraps a `transformers` or PEFT model that is already loaded.

            llm = ChatLocal.from_model(model, tokenizer, window=4096, temperature=0)

        Args:
            model: A causal language model on its device.
            tokenizer: Its tokenizer, which needs a chat template for chat.
            **kwargs: Fields of this class. `model_name` gives it a name, and `window` shortens its window.

        Raises:
            BadRequest: A parameter is out of range, or the weights are on no device.
            UnsupportedModel: The architecture has no plain KV cache.
        """
        return cls._adopted(model, tokenizer, renamed(kwargs, _NAMES))

    @classmethod
    def from_pipeline(cls, pipe: Any, **kwargs: Any) -> Self:
        """Return a model on the weights of a pipeline that is loaded already; nothing is copied.

            pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
            llm = ChatLocal.from_pipeline(pipe)

        The pipeline's own `max_new_tokens`, `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`
        and `do_sample=False` hold, unless a field is given. The reference decoder runs the pipeline's weights
        as they are; `decoder="auto"` takes a faster one if it serves them, which packs a second copy.

        Args:
            pipe: A text-generation pipeline of transformers, or LangChain's `HuggingFacePipeline` around one.
            **kwargs: Fields of this class, as for `from_model`.

        Raises:
            BadRequest: It is no such pipeline, has no tokenizer, or a parameter is unknown or out of range.
            UnsupportedModel: The weights are quantized by another method than bitsandbytes'.
        """
        from llms.models.pipelines import read_pipeline

        parts = read_pipeline(pipe)
        fields = {"decoder": "reference", **parts.options, **renamed(kwargs, _NAMES)}
        return cls._adopted(parts.model, parts.tokenizer, fields)

    @classmethod
    def _adopted(cls, model: Any, tokenizer: Any, fields: dict[str, Any]) -> Self:
        from llms.models.load import adopt
        from llms.runtime import Runtime

        fields = dict(fields)
        loaded = adopt(model, tokenizer, name=fields.pop("model", None), window=fields.get("window"))
        checked = cls(model=loaded.name, **fields)
        runtime = Runtime(loaded, decoder=checked.decoder, max_slots=checked.max_slots)
        return cls(model=loaded.name, adopted=runtime, **fields)

    def runtime(self, model: str | None = None) -> Runtime:
        """Return the loaded model, which is loaded on first use.

        Args:
            model: The name of another model to load with the same settings.

        Raises:
            LLMError: The model cannot be loaded.
        """
        from llms.sharing import shared

        if self.adopted is not None and model in (None, self.model):
            runtime: Runtime = self.adopted
            return runtime
        found = shared(self.load_settings(model), max_slots=self.max_slots)
        if self.cache_bytes is not None and found.cache_bytes != self.cache_bytes:
            found.cache_bytes = self.cache_bytes
        return found

    def loaded_runtime(self) -> Runtime | None:
        """Return the loaded model, or None if nothing has needed it yet."""
        from llms.sharing import find_shared

        if self.adopted is not None:
            adopted: Runtime = self.adopted
            return adopted
        found = find_shared(self.load_settings(), max_slots=self.max_slots)
        return found if found is not None and found.resident else None

    def load_settings(self, model: str | None = None) -> LoadSettings:
        """Return the settings to load this model, or another one, with."""
        own = type(self).model_fields
        values = {name: getattr(self, name) for name in own if name in _LOAD_FIELDS}
        values["model"] = model or self.model
        values["cache_dir"] = Path(self.cache_dir) if self.cache_dir else None
        return LoadSettings(**values)

    def params(self) -> GenerationParams:
        """Return the generation parameters of this model."""
        return GenerationParams.of(self)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each continuation; see `llms.protocols.Scorer`."""
        return self.runtime().score_many([(prompt, continuations)])[0]

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probabilities of many prompts, scored as one batch; see `llms.protocols.Scorer`."""
        return self.runtime().score_many(requests)

    @property
    def writes_well(self) -> bool:
        """False for a model of fewer than a billion parameters; see `llms.protocols.WritesWell`."""
        return not self.runtime().small

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each piece of the tokenizer's vocabulary; see `llms.protocols.Vocabulary`."""
        vocabulary: dict[str, int] = self.runtime().tokenizer.get_vocab()
        return vocabulary

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without BOS."""
        return self.runtime().encode(text, special=False)

    def cache_key(self) -> str:
        """Return a text that differs for models whose answers may differ, for LangChain's caches.

        LangChain's own key misses changes that were made in a copy (`model_copy`) or after the first call.
        """
        names = [name for name in LocalModel.model_fields if name not in _WITHOUT_EFFECT_ON_ANSWERS]
        shown = {name: getattr(self, name) for name in names}
        return f"{shown!r}, {self.adopted.identity if self.adopted is not None else None}"
