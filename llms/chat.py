"""`ChatLocal`: a model on this machine as a LangChain chat model.

Knows LangChain's chat-model interface and this package's runtime; refuses to know tensors. Weights load on
first use; importing this module imports no torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field

from llms.catalog import AUTO, EMBEDDED, find
from llms.chat_fields import LocalFields
from llms.chat_structured import ToolsAndSchemas
from llms.errors import BadRequest

if TYPE_CHECKING:
    from llms.chat_call import Call

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

    tool_scorer: Callable[[str, Sequence[str]], Sequence[float]] | None = Field(
        default=None, exclude=True, repr=False
    )
    """(message, descriptions of tools) -> similarities; helps a small model to pick among tools."""

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
            async for piece in handle.stream():
                for chunk in translator.feed(call.info(handle), piece):
                    yield chunk
        finally:
            handle.close()

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        # One stream cannot hold several answers: they come whole, whoever listens for tokens.
        return super()._streaming_disabled(**kwargs) or (kwargs.get("n") or self.n) != 1

    def _plan(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        from llms.chat_plan import plan

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
