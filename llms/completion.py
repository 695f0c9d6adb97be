"""`LocalLLM`: a model on this machine as a LangChain completion model.

The prompt goes to the model as it is, without a chat template, and the answer does not repeat it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from llms.local import LocalModel
from llms.params import ALIASES, GenerationFields, renamed
from llms.threads import in_thread

if TYPE_CHECKING:
    from llms.engine.request import Piece
    from llms.engine.stream import Stream
    from llms.runtime import Runtime


class LocalLLM(LocalModel, BaseLLM):
    """A completion model that runs in this process.

    It shares weights and batches with every `ChatLocal` that has the same load settings.

    Setup:
        `pip install` brings everything. `model="smollm2-135m"` is small enough for any machine and the only
        model that is downloaded unasked; others are fetched once (`llms.models.pull`, or `download=True`).

    Instantiate:
        >>> from llms import LocalLLM
        >>> llm = LocalLLM(model="smollm2-135m", temperature=0, max_tokens=1)

    Invoke:
        >>> llm.invoke("The capital of France is")
        ' Paris'
        >>> llm.invoke("One, two, three,", max_tokens=3, stop=["five"])
        ' four, '

    Stream:
        >>> list(llm.stream("One, two, three,", max_tokens=2))
        [' four', ',']

    Async:
        >>> asyncio.run(llm.ainvoke("The capital of France is"))
        ' Paris'

    Log-probabilities of given texts:
        >>> paris, rome = llm.score("The capital of France is", [" Paris", " Rome"])
        >>> paris > rome
        True

    Raises:
        BadRequest: A parameter is unknown or out of range, or the prompt is empty.
        ContextOverflow: The prompt is longer than the window.
        LLMError: On first use, if the model cannot be loaded.
    """

    @property
    def _llm_type(self) -> str:
        return "local-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        shown = {"model": self.model, "quantization": self.quantization, "adapter": self.adapter}
        for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed"):
            shown[name] = getattr(self, name)
        return {**shown, "stop": self.params().stops, "identity": self.cache_key()}

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Return a completion of each prompt.

        LangChain's caches ignore options of a call, so they become settings of a copy of this model.
        """
        model, rest = self._with_options(kwargs)
        return super(LocalLLM, model).generate(prompts, rest.pop("stop", stop), callbacks, **rest)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Return a completion of each prompt; see `generate`."""
        model, rest = self._with_options(kwargs)
        return await super(LocalLLM, model).agenerate(prompts, rest.pop("stop", stop), callbacks, **rest)

    def _with_options(self, options: Mapping[str, Any]) -> tuple[LocalLLM, dict[str, Any]]:
        """Return a model with the options of a call as its settings, and the options that are not fields."""
        known = set(GenerationFields.model_fields) - {"stop"}
        given = renamed(options, ALIASES)
        mine = {name: value for name, value in given.items() if name in known and value is not None}
        self.params().merged(mine, None)  # Raises an error if an option is out of range.
        if given.get("model") not in (None, self.model):
            mine |= {"model": given["model"], "adopted": None}
        rest = {name: value for name, value in given.items() if name not in known and name != "model"}
        return (self.model_copy(update=mine) if mine else self), rest

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        from llms.engine.stream import gather

        runtime, streams = self._submit(prompts, stop, kwargs)
        gather([stream for group in streams for stream in group])
        answers = [[_generation(stream, stream.result()) for stream in group] for group in streams]
        return _result(runtime, answers)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        runtime, streams = await in_thread(self._submit, prompts, stop, kwargs)
        flat = [stream for group in streams for stream in group]
        try:
            await asyncio.gather(*(stream.aresult() for stream in flat))
            answers = [[_generation(s, await s.aresult()) for s in group] for group in streams]
        finally:
            for stream in flat:
                stream.close()
        return _result(runtime, answers)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        _, [[stream, *_]] = self._submit([prompt], stop, {**kwargs, "n": 1})
        try:
            while (piece := stream.next_piece()) is not None:
                if (chunk := _chunk(piece)) is not None:
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            stream.close()

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        _, [[stream, *_]] = await in_thread(self._submit, [prompt], stop, {**kwargs, "n": 1})
        try:
            async for piece in stream:
                if (chunk := _chunk(piece)) is not None:
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            stream.close()

    def _submit(
        self, prompts: list[str], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Runtime, list[list[Stream]]]:
        """Queue each prompt `n` times, or none if one of them is refused.

        Returns:
            The runtime, and the streams of each prompt.
        """
        options = dict(kwargs)
        model = options.pop("model", None)
        params = self.params().merged(options, stop)
        runtime = self.runtime(model)
        requests = [
            runtime.request(params, runtime.encode(prompt), index=index)
            for prompt in prompts
            for index in range(params.n)
        ]
        streams = runtime.engine.submit_all(requests)
        return runtime, [streams[at : at + params.n] for at in range(0, len(streams), params.n)]


class MistralNF4(LocalLLM):
    """`LocalLLM` with Mistral-7B-Instruct as the default model, quantized to 4-bit NF4."""

    model: str = "mistral-7b"
    quantization: str = "nf4"


def _chunk(piece: Piece) -> GenerationChunk | None:
    if not piece.text and piece.finish_reason is None:
        return None
    info = {"finish_reason": piece.finish_reason} if piece.finish_reason else None
    return GenerationChunk(text=piece.text, generation_info=info)


def _generation(stream: Stream, pieces: list[Piece]) -> Generation:
    info = {
        "finish_reason": pieces[-1].finish_reason if pieces else "stop",
        "input_tokens": len(stream.request.prompt),
        "output_tokens": len(stream.generated),
    }
    return Generation(text="".join(piece.text for piece in pieces), generation_info=info)


def _result(runtime: Runtime, answers: list[list[Generation]]) -> LLMResult:
    counts = [g.generation_info or {} for group in answers for g in group]
    total_in, total_out = (sum(c[k] for c in counts) for k in ("input_tokens", "output_tokens"))
    usage = {"input_tokens": total_in, "output_tokens": total_out, "total_tokens": total_in + total_out}
    return LLMResult(
        generations=[list(group) for group in answers],
        llm_output={"model_name": runtime.loaded.name, "token_usage": usage},
    )
