"""From the engine's pieces to LangChain's messages: usage, finish reason, log-probabilities.

Knows pieces and message classes; refuses to know prompts, grammars and decoders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall, ToolCallChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from llms.tool_calls.format import new_id

if TYPE_CHECKING:
    from llms.engine.request import Piece, TokenInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerInfo:
    """What a message says about how it came to be.

    Attributes:
        model_name: Name of the model.
        input_tokens: Length of the prompt.
        cached_tokens: Part of it that the prefix cache spared.
        token_text: Token id -> its own text, for log-probabilities.
    """

    model_name: str
    input_tokens: int
    cached_tokens: int
    token_text: Callable[[int], str]


def usage(info: AnswerInfo, output_tokens: int) -> UsageMetadata:
    """Return the token counts of one answer."""
    return UsageMetadata(
        input_tokens=info.input_tokens,
        output_tokens=output_tokens,
        total_tokens=info.input_tokens + output_tokens,
        input_token_details=InputTokenDetails(cache_read=info.cached_tokens),
    )


def logprobs_content(info: AnswerInfo, tokens: Sequence[TokenInfo]) -> list[dict[str, Any]]:
    """Return log-probabilities (nats) in the form that OpenAI's models report them."""
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
    """Collect an answer's pieces into one message.

    Args:
        info: About the answer.
        pieces: All of them, the last with its finish reason.
        text: Content where it is not the pieces' text (tool calls have been taken out).
        calls: Name and JSON arguments of each call that the answer makes.
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
    """Parse calls; one that the token limit cut is reported as invalid, not dropped."""
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
    """Return the chunk of one piece that does not end the answer."""
    metadata: dict[str, Any] = {}
    if piece.logprobs:
        metadata["logprobs"] = {"content": logprobs_content(info, piece.logprobs)}
    return ChatGenerationChunk(message=AIMessageChunk(content=piece.text, response_metadata=metadata))


def tool_chunk(index: int, *, name: str | None, args: str, identifier: str | None) -> ChatGenerationChunk:
    """Return a chunk with part of a tool call."""
    part = ToolCallChunk(name=name, args=args, id=identifier, index=index, type="tool_call_chunk")
    return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))


def last_chunk(info: AnswerInfo, piece: Piece | None, reason: str, output_tokens: int) -> ChatGenerationChunk:
    """Return the chunk that ends an answer; it alone carries usage, model name and finish reason."""
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
