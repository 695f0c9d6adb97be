"""`ChatLocal`: a model on this machine as a LangChain chat model.

The weights load on first use, and importing this module imports no torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from llms.call import Call, plan_schema, plan_text
from llms.errors import BadRequest
from llms.local import LocalModel
from llms.models.catalog import AUTO, EMBEDDED, find
from llms.protocols import ToolPicker
from llms.structured import (
    Method,
    checked_tools,
    normal_choice,
    openai_tools,
    response_schema,
    structured_output,
)
from llms.threads import in_thread

if TYPE_CHECKING:
    from llms.completion import LocalLLM

MAX_BATCH_THREADS = 64
"""Maximum number of threads of one `batch`."""


class ChatLocal(LocalModel, BaseChatModel):
    """A chat model that runs in this process.

    Instances with the same load settings share one copy of the weights, and calls that run at the same time
    share one batch.

    Setup:
        `pip install` brings everything. `model="smollm2-135m"` is small enough for any machine and the only
        model that is downloaded unasked; others are fetched once (`llms.models.pull`, or `download=True`).

    Instantiate:
        >>> from llms import ChatLocal
        >>> llm = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=32)

    Invoke:
        >>> llm.invoke("What is the capital of France?").text
        'The capital of France is Paris.'
        >>> answer = llm.invoke([("system", "Answer briefly."), ("human", "2 + 2?")], max_tokens=4)
        >>> answer.usage_metadata["input_tokens"], answer.response_metadata["finish_reason"]
        (22, 'length')

    Stream:
        >>> [chunk.text for chunk in llm.stream("What is the capital of France?")][:4]
        ['The', ' capital', ' of', ' France']

    Async:
        >>> asyncio.run(llm.ainvoke("What is the capital of France?")).text
        'The capital of France is Paris.'

    Batch:
        >>> [answer.text for answer in llm.batch(["What is the capital of France?"] * 2)]
        ['The capital of France is Paris.', 'The capital of France is Paris.']

    Tool calling:
        >>> def multiply(a: int, b: int) -> int:
        ...     "Multiply two numbers."
        ...     return a * b
        >>> [call] = llm.bind_tools([multiply]).invoke("What is 6 times 7?").tool_calls
        >>> call["name"], call["args"]
        ('multiply', {'a': 6, 'b': 7})

    Structured output:
        >>> from pydantic import BaseModel
        >>> class Person(BaseModel):
        ...     name: str
        ...     age: int
        >>> llm.with_structured_output(Person).invoke("Ada is 36 years old.")
        Person(name='Ada', age=36)

    Larger models:
        >>> ChatLocal(model="mistral-7b", quantization="nf4", window=8192).model  # loads on first use
        'mistral-7b'

    Raises:
        BadRequest: A parameter is unknown or out of range.
        LLMError: On first use, if the model cannot be loaded (unknown, damaged, too large, ...).
    """

    tool_picker: ToolPicker | None = Field(default=None, exclude=True, repr=False)
    """Picks the tool for a small model. Without one its log-probabilities decide."""

    def as_completion_model(self) -> LocalLLM:
        """Return a completion model on the same weights, with the same settings.

        >>> from llms import ChatLocal
        >>> llm = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=1).as_completion_model()
        >>> llm.invoke("The capital of France is")
        ' Paris'
        """
        from llms.completion import LocalLLM

        return LocalLLM(**{name: getattr(self, name) for name in LocalModel.model_fields})

    @property
    def _llm_type(self) -> str:
        return "chat-local"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._plan(messages, stop, kwargs)
        from llms.engine.stream import gather

        streams = call.submit()
        answers = gather(streams)
        return _result(call, [call.result(s, pieces) for s, pieces in zip(streams, answers, strict=True)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = await in_thread(self._plan, messages, stop, kwargs)
        streams = call.submit()
        try:
            answers = await asyncio.gather(*(stream.aresult() for stream in streams))
        finally:
            for stream in streams:
                stream.close()
        return _result(call, [call.result(s, pieces) for s, pieces in zip(streams, answers, strict=True)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = _single(self._plan(messages, stop, kwargs))
        [stream], translator = call.submit(), call.translator()
        try:
            while (piece := stream.next_piece()) is not None:
                yield from translator.feed(call.info(stream), piece)
        finally:
            stream.close()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = _single(await in_thread(self._plan, messages, stop, kwargs))
        [stream], translator = call.submit(), call.translator()
        try:
            async for piece in stream:
                for chunk in translator.feed(call.info(stream), piece):
                    yield chunk
        finally:
            stream.close()

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        # One stream cannot hold several answers, so they come whole even if a callback listens for tokens.
        return super()._streaming_disabled(**kwargs) or (kwargs.get("n") or self.n) != 1

    def _plan(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> Call:
        """Return the planned call. It may score, so async callers run it in a thread.

        Args:
            messages: The conversation.
            stop: Stop strings of this call.
            kwargs: Call options: generation parameters, `model`, `tools`, `tool_choice`,
                `parallel_tool_calls`, `response_format`.

        Raises:
            CallError: Options, messages or the schema cannot be served.
            LLMError: The model cannot be loaded.
        """
        options = {name: value for name, value in kwargs.items() if name != "strict"}
        model = options.pop("model", None)
        tools = options.pop("tools", None) or []
        # If a schema is bound as a tool, its text is made up; arguments of other tools are in the message.
        copy = "ls_structured_output_format" not in options
        choice = normal_choice(options.pop("tool_choice", None), checked_tools(tools)) or "auto"
        if (response_format := options.pop("response_format", None)) == {"type": "text"}:
            response_format = None
        parallel = options.pop("parallel_tool_calls", None) is not False
        params = self.params().merged(options, stop)
        runtime = self.runtime(model)

        def structured() -> Call:
            return plan_schema(runtime, messages, params, response_schema(response_format))

        if not tools or choice == "none":
            return plan_text(runtime, messages, params) if response_format is None else structured()
        from llms.small import GuidedCalls
        from llms.tool_calls.plan import ToolRequest, WrittenCalls

        request = ToolRequest(
            messages=messages,
            params=params,
            tools=tools,
            choice=choice,
            parallel=parallel,
            copy=copy,
            answer=None if response_format is None else structured,
            picker=self.tool_picker,
        )
        planner = GuidedCalls(runtime) if runtime.small else WrittenCalls(runtime)
        return planner.plan(request)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools that it may call.

        Args:
            tools: Functions, LangChain tools, pydantic models, or JSON schemas.
            tool_choice: None or `auto` (the model decides), `none`, `any`/`required`/True, or a tool's name.
            strict: Accepted for compatibility; arguments always follow their schema.
            parallel_tool_calls: False allows at most one call per answer.
            **kwargs: Further call options.

        Raises:
            UnsupportedSchema: A tool's schema uses a keyword that the grammar cannot enforce.
            BadRequest: Something is not a tool, two tools have one name, or `tool_choice` names none of them.
        """
        listed = openai_tools(tools, strict)
        choice = normal_choice(tool_choice, [tool["function"]["name"] for tool in listed])
        if choice is not None:
            kwargs["tool_choice"] = choice
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return super().bind(tools=listed, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers follow a schema.

        Args:
            schema: Pydantic class (v2 or v1), TypedDict, JSON schema, or OpenAI tool dictionary. None allows
                any JSON object and needs `json_mode`. Sets of a pydantic class are written as lists, which
                pydantic reads. A Decimal may get a text that pydantic refuses, because its schema does not
                say more.
            method: `json_schema` and `json_mode` answer in JSON under the schema's grammar.
                `function_calling` calls a tool with that schema.
            include_raw: Return {"raw", "parsed", "parsing_error"} instead of the parsed answer alone.
            strict: Accepted for compatibility; answers always follow the schema.
            **kwargs: Further call options.

        Raises:
            UnsupportedSchema: The schema uses a keyword that the grammar cannot enforce.
            BadRequest: The method is unknown, or `schema` is not a schema.
            OutputParserException: On use, if max_tokens cut the answer.
        """
        return structured_output(
            self, schema, method=method, include_raw=include_raw, strict=strict, options=kwargs
        )

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the answers to all inputs, which the engine runs as one batch.

        There is a thread for each input, up to 64. LangChain's own default is a few threads whatever the
        number of inputs. `max_concurrency` in `config` sets another limit.
        """
        threads = min(len(inputs), MAX_BATCH_THREADS)
        configs = [
            cast("RunnableConfig", {**one, "max_concurrency": one.get("max_concurrency") or threads})
            for one in (get_config_list(config, len(inputs)) if inputs else [])
        ]
        return super().batch(inputs, configs or config, return_exceptions=return_exceptions, **kwargs)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the length of the prompt for these messages and tools, in tokens."""
        listed = [convert_to_openai_tool(tool) for tool in tools or ()]
        return len(self.runtime().prompt_ids(messages, listed))

    def _resolve_model_profile(self) -> ModelProfile:
        """Return what LangChain's agents ask about a model, without loading it."""
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
        """Return the length of the window if it is known before loading; for `auto`, the embedded model's."""
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
        if stops := stop or self.params().stops:
            params["ls_stop"] = list(stops)
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return super()._get_llm_string(stop=stop, **kwargs) + self.cache_key()


class ChatMistralNF4(ChatLocal):
    """`ChatLocal` with Mistral-7B-Instruct as the default model, quantized to 4-bit NF4.

    >>> llm = ChatMistralNF4(temperature=0)
    >>> llm.model, llm.quantization
    ('mistral-7b', 'nf4')
    """

    model: str = "mistral-7b"
    quantization: str = "nf4"


def _single(call: Call) -> Call:
    if call.params.n != 1:
        raise BadRequest(f"expected n=1 for a stream, found n={call.params.n!r}; use invoke()")
    return call


def _result(call: Call, answers: list[ChatGeneration]) -> ChatResult:
    return ChatResult(generations=answers, llm_output={"model_name": call.runtime.loaded.name})
