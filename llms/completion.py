"""`LocalLLM`: raw text in, continuation out.

Knows LangChain's completion interface and this package's runtime; refuses to know messages and templates. The
prompt goes to the model as it stands; nothing of it is echoed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from llms.chat import LocalFields
from llms.params import ALIASES, GenerationParams, renamed

if TYPE_CHECKING:
    from llms.engine.request import Piece, Stream
    from llms.runtime import Runtime


class LocalLLM(LocalFields, BaseLLM):
    """A completion model that runs in this process.

    Example:
        >>> LocalLLM(model="smollm2-135m", temperature=0, max_tokens=1).invoke("The capital of France is")
        ' Paris'

    Raises:
        BadRequest: A parameter out of range, or an empty prompt.
        ContextOverflow: A prompt longer than the window.
        LLMError: On first use, what loading raises.
    """

    @property
    def _llm_type(self) -> str:
        return "local-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        shown = {"model": self.model, "quantization": self.quantization, "adapter": self.adapter}
        settings = self.params()
        for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"):
            shown[name] = getattr(settings, name)
        return {**shown, "identity": self.cache_key()}

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Complete every prompt; see LangChain. Call options count in its caches, which it forgets itself."""
        settled, rest = self._settled(kwargs)
        return super(LocalLLM, settled).generate(prompts, rest.pop("stop", stop), callbacks, **rest)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Complete every prompt; see `generate`."""
        settled, rest = self._settled(kwargs)
        return await super(LocalLLM, settled).agenerate(prompts, rest.pop("stop", stop), callbacks, **rest)

    def _settled(self, options: Mapping[str, Any]) -> tuple[LocalLLM, dict[str, Any]]:
        """Return this model with a call's options as its settings, and what is no option of ours."""
        known = {field.name for field in fields(GenerationParams)} - {"stop"}
        given = renamed(options, ALIASES)
        mine = {name: value for name, value in given.items() if name in known and value is not None}
        self.params().merged(mine, None)  # names what is out of range
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
        from llms.engine.request import gather

        runtime, streams = self._submit(prompts, stop, kwargs)
        gather([h for group in streams for h in group])
        return _result(runtime, [[_generation(h, h.result()) for h in group] for group in streams])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        runtime, streams = await asyncio.to_thread(self._submit, prompts, stop, kwargs)
        flat = [h for group in streams for h in group]
        try:
            await asyncio.gather(*(h.aresult() for h in flat))
            answers = [[_generation(h, await h.aresult()) for h in group] for group in streams]
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
        _, [[stream, *_]] = await asyncio.to_thread(self._submit, [prompt], stop, {**kwargs, "n": 1})
        try:
            async for piece in stream:
                if (chunk := _chunk(piece)) is not None:
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            stream.close()

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without BOS."""
        return self.runtime().encode(text, special=False)

    def _submit(
        self, prompts: list[str], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Runtime, list[list[Stream]]]:
        """Queue every prompt `n` times."""
        options = dict(kwargs)
        model = options.pop("model", None)
        params = self.params().merged(options, stop)
        runtime = self.runtime(model)
        return runtime, [self._queue(runtime, params, prompt) for prompt in prompts]

    def _queue(self, runtime: Runtime, params: GenerationParams, prompt: str) -> list[Stream]:
        ids = runtime.encode(prompt)
        engine = runtime.engine
        return [
            engine.submit(
                params.request(
                    ids,
                    decode=runtime.decode,
                    end_ids=runtime.end_ids,
                    window=engine.decoder.window,
                    index=index,
                )
            )
            for index in range(params.n)
        ]


class MistralNF4(LocalLLM):
    """Mistral-7B-Instruct quantized to 4-bit NF4, bf16 compute: `LocalLLM` with these defaults."""

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
