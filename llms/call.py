"""One chat call between LangChain and the engine: what to run, and how its pieces become messages.

Knows prompts, parameters and translators; refuses to know LangChain's callbacks and model classes. Planning
may score (tools are chosen by log-probability), so an async caller runs it in a thread; afterwards one handle
a requested answer is all that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from llms.output import AnswerInfo, chunk, last_chunk, message
from llms.tool_calls.format import RESULT_TAGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from llms.engine.request import Constraint, Piece, Stream
    from llms.params import GenerationParams
    from llms.runtime import Runtime


class Translator(Protocol):
    """Turns one answer's pieces into chunks, or all of them into one message."""

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return the chunks of one piece, the closing one included."""
        ...

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the whole answer."""
        ...


class TextTranslator:
    """The answer is text."""

    def __init__(self) -> None:
        self._tokens = 0

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return a chunk where there is news."""
        self._tokens += len(piece.tokens)
        if piece.finish_reason is not None:
            return [last_chunk(info, piece, piece.finish_reason, self._tokens)]
        return [chunk(info, piece)] if piece.text or piece.logprobs else []

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the text as one message."""
        return message(info, pieces)


class ResultTranslator(TextTranslator):
    """The answer is text, but for the tag that a small model copies from the tool's result it repeats."""

    def __init__(self) -> None:
        super().__init__()
        self._held: str | None = ""

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return a chunk where there is news."""
        return super().feed(info, self._without_tag(piece))

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the text as one message."""
        return super().collect(info, [self._without_tag(piece) for piece in pieces])

    def _without_tag(self, piece: Piece) -> Piece:
        """Hold text back while it may still be the tag, and leave the tag out."""
        if self._held is None:
            return piece
        tag, text = f"{RESULT_TAGS[0]}\n", self._held + piece.text
        self._held = text if piece.finish_reason is None and tag.startswith(text) else None
        if self._held is None:
            if text.startswith(tag.strip()):
                text = text.removeprefix(tag.strip()).lstrip("\n")
            return replace(piece, text=text)
        return replace(piece, text="")


def text_call(runtime: Runtime, messages: Sequence[BaseMessage], params: GenerationParams) -> Call:
    """Plan an answer in free text."""
    prompt = runtime.prompt_ids(list(messages))
    tagged = runtime.prompts.tool_format.name == "generic"
    if not (tagged and any(isinstance(message, ToolMessage) for message in messages)):
        return Call(runtime=runtime, prompt=prompt, params=params)
    stops = (*params.stop, f"\n{RESULT_TAGS[1]}", RESULT_TAGS[1])
    params = replace(params, stop=stops)
    return Call(runtime=runtime, prompt=prompt, params=params, translator=ResultTranslator)


@dataclass(kw_only=True, slots=True)
class Call:
    """A planned call.

    Attributes:
        runtime: The model.
        prompt: Token ids.
        params: Checked parameters.
        constraint: Makes a fresh grammar for each answer; None for free text.
        translator: Makes a fresh translator for each answer.
        decode: Token ids -> text, where it is not the runtime's own.
    """

    runtime: Runtime
    prompt: list[int]
    params: GenerationParams
    constraint: Callable[[], Constraint] | None = None
    translator: Callable[[], Translator] = field(default=TextTranslator)
    decode: Callable[[list[int]], str] | None = None

    def submit(self, index: int = 0) -> Stream:
        """Queue answer number `index`."""
        engine = self.runtime.engine
        request = self.params.request(
            self.prompt,
            decode=self.decode or self.runtime.decode,
            end_ids=self.runtime.end_ids,
            window=engine.decoder.window,
            index=index,
            constraint=self.constraint() if self.constraint else None,
        )
        return engine.submit(request)

    def info(self, stream: Stream) -> AnswerInfo:
        """Return what the answer's message says about it."""
        return AnswerInfo(
            model_name=self.runtime.loaded.name,
            input_tokens=len(self.prompt),
            cached_tokens=stream.cached_tokens,
            token_text=self.token_text,
        )

    def token_text(self, token: int) -> str:
        """Return one token's own text, control tokens by their name."""
        if token in self.runtime.special_ids:
            return str(self.runtime.tokenizer.convert_ids_to_tokens(token))
        return self.runtime.decode([token])

    def result(self, stream: Stream, pieces: Sequence[Any]) -> ChatGeneration:
        """Return one whole answer."""
        return self.translator().collect(self.info(stream), pieces)
