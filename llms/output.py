"""LangChain's messages and chunks, made of the pieces that the engine delivers.

A `Translator` reads one answer: piece by piece (`feed`) or as a whole (`collect`). Both report usage, finish
reason and log-probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall, ToolCallChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from llms.tool_calls.format import new_id

if TYPE_CHECKING:
    from llms.engine.request import Piece, TokenInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerInfo:
    """Facts about an answer that its message reports.

    Attributes:
        model_name: The name of the model.
        input_tokens: Number of tokens of the prompt.
        cached_tokens: Number of tokens of the prompt that the prefix cache provided.
        token_text: Returns the text of one token, for log-probabilities.
    """

    model_name: str
    input_tokens: int
    cached_tokens: int
    token_text: Callable[[int], str]


class Translator(Protocol):
    """Turns the pieces of one answer into chunks, or all of them into one message."""

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return the chunks of the next piece. There may be none."""
        ...

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the whole answer, from all its pieces."""
        ...


class TextTranslator:
    """A `Translator` of answers that are text."""

    def __init__(self) -> None:
        self._tokens = 0

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return the chunk of a piece, if it has text or log-probabilities, or ends the answer."""
        self._tokens += len(piece.tokens)
        if piece.finish_reason is not None:
            return [last_chunk(info, piece, piece.finish_reason, self._tokens)]
        return [chunk(info, piece)] if piece.text or piece.logprobs else []

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the text as one message."""
        return message(info, pieces)


def usage(info: AnswerInfo, output_tokens: int) -> UsageMetadata:
    """Return the token counts of one answer."""
    return UsageMetadata(
        input_tokens=info.input_tokens,
        output_tokens=output_tokens,
        total_tokens=info.input_tokens + output_tokens,
        input_token_details=InputTokenDetails(cache_read=info.cached_tokens),
    )


def logprobs_content(info: AnswerInfo, tokens: Sequence[TokenInfo]) -> list[dict[str, Any]]:
    """Return log-probabilities (nats) in the form of OpenAI's models."""
    return [
        {
            "token": info.token_text(t.token),
            "logprob": t.logprob,
            "top_logprobs": [
                {"token": info.token_text(other), "logprob": logprob} for other, logprob in t.top
            ],
        }
        for t in tokens
    ]


def message(
    info: AnswerInfo,
    pieces: Sequence[Piece],
    *,
    text: str | None = None,
    calls: Sequence[tuple[str, str]] = (),
) -> ChatGeneration:
    """Return the message of a whole answer.

    Args:
        info: Facts about the answer.
        pieces: All pieces; the last one has the finish reason.
        text: The content, if it is not the text of the pieces because that holds tool calls.
        calls: The name and the JSON arguments of each tool call.
    """
    content = "".join(piece.text for piece in pieces) if text is None else text
    count = sum(len(piece.tokens) for piece in pieces)
    valid, broken = _parsed(calls)
    reason = pieces[-1].finish_reason if pieces else "stop"
    metadata = _metadata(info, "tool_calls" if valid and reason == "stop" else reason)
    tokens = [token for piece in pieces for token in piece.logprobs]
    if tokens:
        metadata["logprobs"] = {"content": logprobs_content(info, tokens)}
    answer = AIMessage(
        content=content,
        tool_calls=valid,
        invalid_tool_calls=broken,
        usage_metadata=usage(info, count),
        response_metadata=metadata,
    )
    return ChatGeneration(message=answer, generation_info={"finish_reason": metadata["finish_reason"]})


def _parsed(calls: Sequence[tuple[str, str]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Return the valid calls and the invalid ones, whose arguments the token limit has cut."""
    valid: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    for name, text in calls:
        try:
            args = json.loads(text)
            valid.append(ToolCall(name=name, args=args, id=new_id(), type="tool_call"))
        except ValueError as error:
            broken.append(
                InvalidToolCall(name=name, args=text, id=new_id(), error=str(error), type="invalid_tool_call")
            )
    return valid, broken


def chunk(info: AnswerInfo, piece: Piece) -> ChatGenerationChunk:
    """Return the chunk of a piece that does not end the answer."""
    metadata: dict[str, Any] = {}
    if piece.logprobs:
        metadata["logprobs"] = {"content": logprobs_content(info, piece.logprobs)}
    return ChatGenerationChunk(message=AIMessageChunk(content=piece.text, response_metadata=metadata))


def tool_chunk(index: int, *, name: str | None, args: str, identifier: str | None) -> ChatGenerationChunk:
    """Return a chunk that holds a part of a tool call."""
    part = ToolCallChunk(name=name, args=args, id=identifier, index=index, type="tool_call_chunk")
    return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))


def last_chunk(info: AnswerInfo, piece: Piece | None, reason: str, output_tokens: int) -> ChatGenerationChunk:
    """Return the chunk that ends an answer, the only one with usage, model name and finish reason."""
    metadata = _metadata(info, reason)
    if piece is not None and piece.logprobs:
        metadata["logprobs"] = {"content": logprobs_content(info, piece.logprobs)}
    answer = AIMessageChunk(
        content=piece.text if piece is not None else "",
        usage_metadata=usage(info, output_tokens),
        response_metadata=metadata,
        chunk_position="last",
    )
    return ChatGenerationChunk(message=answer, generation_info={"finish_reason": reason})


def _metadata(info: AnswerInfo, reason: str | None) -> dict[str, Any]:
    return {"model_name": info.model_name, "model_provider": "local", "finish_reason": reason}
