"""The fields that every local model class has: what to load, and how to generate.

Knows field names, defaults and the variables they may come from (LangChain's convention for models); refuses
to know LangChain's chat and completion interfaces. Importing it imports no torch.

Planning one chat call: prompt, parameters, grammar, and how the answer is to be read.

Knows which options mean what and which part serves them; refuses to know decoders and LangChain's callbacks.

`ChatLocal`: a model on this machine as a LangChain chat model.

Knows LangChain's chat-model interface and this package's runtime; refuses to know tensors. Weights load on
first use; importing this module imports no torch.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, ModelProfile
from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.utils import from_env
from pydantic import Field

from llms.call import Call, plan_schema, plan_text
from llms.errors import BadRequest
from llms.grammar.schema import plain_schema
from llms.models.catalog import AUTO, EMBEDDED, find
from llms.params import ALIASES, GenerationParams, LoadSettings, renamed, stop_strings
from llms.protocols import ToolPicker
from llms.structured import ToolsAndSchemas, checked_tools, normal_choice

if TYPE_CHECKING:
    from llms.call import Call
    from llms.protocols import Prompt, ScoreRequest
    from llms.runtime import Runtime

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
        from llms.models.load import adopt
        from llms.runtime import Runtime

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
        from llms.runtime import shared

        if self.adopted is not None and model in (None, self.model):
            runtime: Runtime = self.adopted
            return runtime
        return shared(self.load_settings(model), decoder=self.decoder, max_slots=self.max_slots)

    def loaded_runtime(self) -> Runtime | None:
        """Return the loaded model where something has needed it already; loads nothing."""
        from llms.runtime import find_shared

        if self.adopted is not None:
            adopted: Runtime = self.adopted
            return adopted
        return find_shared(self.load_settings(), decoder=self.decoder, max_slots=self.max_slots)

    def load_settings(self, model: str | None = None) -> LoadSettings:
        """Return what to load, for this model or for another one under the same settings."""
        return LoadSettings(
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

    @property
    def writes_well(self) -> bool:
        """False for a model of fewer than a billion parameters; see `llms.protocols.WritesWell`."""
        return not self.runtime().small

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each piece of the tokenizer's vocabulary; see `llms.protocols.Vocabulary`."""
        vocabulary: dict[str, int] = self.runtime().tokenizer.get_vocab()
        return vocabulary

    def cache_key(self) -> str:
        """Return what tells this model's answers from another's in LangChain's caches.

        LangChain's own key forgets what was changed in a copy (`model_copy`) or after the first call.
        """
        shown = {name: getattr(self, name) for name in LocalFields.model_fields if name not in _NO_ANSWER}
        return f"{shown!r}, {self.adopted.identity if self.adopted is not None else None}"


if TYPE_CHECKING:
    pass


def plan(
    chat: ChatLocal, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
) -> Call:
    """Plan one call.

    Args:
        chat: The model asked.
        messages: The conversation.
        stop: Stop strings of this call.
        kwargs: Call options: generation parameters, `model`, `tools`, `tool_choice`, `response_format`.

    Raises:
        CallError: Options, messages or schema that cannot be served.
        LLMError: What loading the model raises.
    """
    options = {name: value for name, value in kwargs.items() if name != "strict"}
    model = options.pop("model", None)
    tools = options.pop("tools", None) or []
    # A schema bound as a tool wants text made up; a tool's arguments are what the message says.
    copy = "ls_structured_output_format" not in options
    choice = normal_choice(options.pop("tool_choice", None), checked_tools(tools)) or "auto"
    if (response_format := options.pop("response_format", None)) == {"type": "text"}:
        response_format = None
    parallel = options.pop("parallel_tool_calls", None) is not False
    params = chat.params().merged(options, stop)
    runtime = chat.runtime(model)
    if response_format is None and (not tools or choice == "none"):
        return plan_text(runtime, messages, params)
    from llms.tool_calls.plan import ToolRequest

    def structured() -> Call:
        return plan_schema(runtime, messages, params, _schema_of(response_format))

    if not tools or choice == "none":
        return structured()
    request = ToolRequest(
        messages=messages,
        params=params,
        tools=tools,
        choice=choice,
        parallel=parallel,
        copy=copy,
        answer=None if response_format is None else structured,
        picker=chat.tool_picker,
    )
    return runtime.tool_planner.plan(request)


def _schema_of(response_format: Any) -> dict[str, Any] | None:
    """Return the schema of a `response_format`; None for any JSON object."""
    if isinstance(response_format, type):
        return plain_schema(response_format)
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return None
    if kind == "json_schema":
        inner = response_format["json_schema"]
        return dict(inner.get("schema", inner))
    raise BadRequest(
        "Expected response_format={'type': 'json_schema', ...}, {'type': 'json_object'}, {'type': 'text'} or "
        f"a pydantic class, found {response_format!r}. Give one of these."
    )


MAX_BATCH_THREADS = 64


class ChatLocal(LocalFields, ToolsAndSchemas):
    """A chat model that runs in this process.

    Several instances with the same load settings share one copy of the weights, and calls that run at the
    same time share one batch.

    Example:
        >>> llm = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=8)
        >>> llm.invoke("What is the capital of France?").text
        'The capital of France is Paris.'

    Raises:
        BadRequest: A parameter out of range.
        LLMError: On first use, what loading raises (unknown model, damaged checkpoint, no memory, ...).
    """

    tool_picker: ToolPicker | None = Field(default=None, exclude=True, repr=False)
    """Picks the tool for a small model. Without one its log-probabilities decide."""

    @property
    def _llm_type(self) -> str:
        return "chat-local"

    def _resolve_model_profile(self) -> ModelProfile:
        """Tell LangChain's agents what this model can do; loads nothing."""
        profile = ModelProfile(
            open_weights=True,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            text_outputs=True,
            reasoning_output=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
        )
        if (window := self._known_window()) is not None:
            profile["max_input_tokens"] = window
        return profile

    def _known_window(self) -> int | None:
        """Return the window in tokens, as far as it is known before loading; the lesser one for `auto`."""
        if self.adopted is not None:
            return int(self.adopted.loaded.window)
        entry = find(EMBEDDED if self.model == AUTO else self.model)
        return self.window or (entry.context if entry is not None else None)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "quantization": self.quantization, "adapter": self.adapter}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "local"
        if stops := stop or self.params().stop:
            params["ls_stop"] = list(stops)
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return super()._get_llm_string(stop=stop, **kwargs) + self.cache_key()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._plan(messages, stop, kwargs)
        from llms.engine.request import gather

        handles = [call.submit(i) for i in range(call.params.n)]
        pieces = gather(handles)
        return _result(call, [call.result(h, p) for h, p in zip(handles, pieces, strict=True)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = await asyncio.to_thread(self._plan, messages, stop, kwargs)
        handles = [call.submit(i) for i in range(call.params.n)]
        try:
            pieces = await asyncio.gather(*(handle.aresult() for handle in handles))
        finally:
            for handle in handles:
                handle.close()
        return _result(call, [call.result(h, p) for h, p in zip(handles, pieces, strict=True)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = _single(self._plan(messages, stop, kwargs))
        handle, translator = call.submit(), call.translator()
        try:
            while (piece := handle.next_piece()) is not None:
                yield from translator.feed(call.info(handle), piece)
        finally:
            handle.close()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = _single(await asyncio.to_thread(self._plan, messages, stop, kwargs))
        handle, translator = call.submit(), call.translator()
        try:
            async for piece in handle:
                for chunk in translator.feed(call.info(handle), piece):
                    yield chunk
        finally:
            handle.close()

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        # One stream cannot hold several answers: they come whole, whoever listens for tokens.
        return super()._streaming_disabled(**kwargs) or (kwargs.get("n") or self.n) != 1

    def _plan(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:

        return plan(self, messages, stop, kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Run all inputs as one batch: as many threads as inputs, which the engine joins into one.

        LangChain's own default is a handful of threads, whatever the number of inputs.
        """
        configs = batch_configs(config, len(inputs))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without BOS."""
        return self.runtime().encode(text, special=False)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the length of the prompt that these messages (and tools) become, in tokens."""
        from langchain_core.utils.function_calling import convert_to_openai_tool

        listed = [convert_to_openai_tool(tool) for tool in tools or ()]
        return len(self.runtime().prompt_ids(messages, listed))


class ChatMistralNF4(ChatLocal):
    """Mistral-7B-Instruct quantized to 4-bit NF4, bf16 compute: `ChatLocal` with these defaults."""

    model: str = "mistral-7b"
    quantization: str = "nf4"


def batch_configs(
    config: RunnableConfig | list[RunnableConfig] | None, count: int
) -> list[RunnableConfig] | RunnableConfig | None:
    """Return one configuration an input, with a thread for each where the caller sets no limit."""
    if not count:
        return config
    configs = get_config_list(config, count)
    threads = min(count, MAX_BATCH_THREADS)
    return [
        cast("RunnableConfig", {**c, "max_concurrency": c.get("max_concurrency") or threads}) for c in configs
    ]


def _single(call: Call) -> Call:
    if call.params.n != 1:
        raise BadRequest(f"Expected n=1 where an answer streams, found n={call.params.n!r}. Use invoke().")
    return call


def _result(call: Call, answers: list[ChatGeneration]) -> ChatResult:
    return ChatResult(generations=answers, llm_output={"model_name": call.runtime.loaded.name})
