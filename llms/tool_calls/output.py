"""From generated text to tool calls, streamed as they are written.

Knows call formats and LangChain's chunks; refuses to know grammars and models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from llms.grammar.close import JsonState
from llms.output import AnswerInfo, last_chunk, message, tool_chunk
from llms.tool_calls.format import ToolFormat, new_id

if TYPE_CHECKING:
    from llms.engine.request import Piece


class ArgumentsTranslator:
    """The answer is the arguments of one call.

    Args:
        name: The tool that is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = 0
        self._begun = False

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return the call's name first, then its arguments as they come."""
        self._tokens += len(piece.tokens)
        chunks: list[ChatGenerationChunk] = []
        if not self._begun:
            chunks.append(tool_chunk(0, name=self._name, args="", identifier=new_id()))
            self._begun = True
        if piece.text:
            chunks.append(tool_chunk(0, name=None, args=piece.text, identifier=None))
        if piece.finish_reason is not None:
            reason = "tool_calls" if piece.finish_reason == "stop" else piece.finish_reason
            chunks.append(last_chunk(info, None, reason, self._tokens))
        return chunks

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the call, or an invalid one where the token limit cut it."""
        text = "".join(piece.text for piece in pieces)
        return message(info, pieces, text="", calls=[(self._name, text)])


class CallsTranslator:
    """The answer is text, calls, or text and then calls.

    Args:
        form: How calls are written.
        opened: Whether the prompt already holds the marker that opens them.
        begun: What the prompt holds after the marker.
    """

    def __init__(self, form: ToolFormat, *, opened: bool, begun: str = "") -> None:
        self._marker = form.opening.strip()
        self._key = form.arguments_key
        self._opened = opened
        self._buffer = begun
        self._calls = 0
        self._inside: JsonState | None = None
        self._tokens = 0

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return text before the marker, then each call's name and arguments as they come."""
        self._tokens += len(piece.tokens)
        self._buffer += piece.text
        chunks: list[ChatGenerationChunk] = []
        if not self._opened:
            chunks += self._text(info, last=piece.finish_reason is not None)
        while self._opened and (found := self._advance()):
            chunks.append(found)
        if piece.finish_reason is not None:
            reason = "tool_calls" if self._calls and piece.finish_reason == "stop" else piece.finish_reason
            chunks.append(last_chunk(info, None, reason, self._tokens))
        return chunks

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return text and calls as one message."""
        text, calls = "", list[tuple[str, str]]()
        for piece in pieces:
            for part in self.feed(info, piece):
                text += part.text
                for call in getattr(part.message, "tool_call_chunks", []):
                    if call["name"]:
                        calls.append((call["name"], ""))
                    elif call["args"]:
                        calls[-1] = (calls[-1][0], calls[-1][1] + call["args"])
        return message(info, pieces, text=text, calls=calls)

    def _text(self, info: AnswerInfo, *, last: bool) -> list[ChatGenerationChunk]:
        """Return text that cannot belong to the marker any more."""
        before, found, after = self._buffer.partition(self._marker)
        if found:
            self._opened, self._buffer = True, after
            shown = before.rstrip()
        else:
            keep = 0 if last else _held(self._buffer, self._marker)
            cut = len(self._buffer) - keep
            shown, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return [ChatGenerationChunk(message=AIMessageChunk(content=shown))] if shown else []

    def _advance(self) -> ChatGenerationChunk | None:
        """Return the next part of a call, as far as the buffer goes."""
        if self._inside is not None:
            return self._arguments()
        head = f', "{self._key}": '
        start, end = self._buffer.find('{"name": '), self._buffer.find(head)
        if start < 0 or end < start:
            return None
        name = json.loads(self._buffer[start + len('{"name": ') : end])
        self._buffer = self._buffer[end + len(head) :]
        self._inside = JsonState()
        self._calls += 1
        return tool_chunk(self._calls - 1, name=name, args="", identifier=new_id())

    def _arguments(self) -> ChatGenerationChunk | None:
        """Return more of the arguments, up to the bracket that ends them."""
        assert self._inside is not None
        for place, character in enumerate(self._buffer):
            self._inside.feed(character)
            if self._inside.depth == 0 and not self._inside.in_string:
                args, self._buffer = self._buffer[: place + 1], self._buffer[place + 1 :]
                self._inside = None
                return tool_chunk(self._calls - 1, name=None, args=args, identifier=None)
        args, self._buffer = self._buffer, ""
        return tool_chunk(self._calls - 1, name=None, args=args, identifier=None) if args else None


def _held(text: str, marker: str) -> int:
    """Return the length of the end of `text` that may begin the marker."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[len(text) - size :]):
            return size
    return 0
