"""Translators of answers with tool calls, and of answers to a tool's result.

Calls are streamed as the model writes them: the name first, then the arguments piece by piece.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from llms.grammar.close import JsonState
from llms.output import AnswerInfo, TextTranslator, last_chunk, message, tool_chunk
from llms.tool_calls.format import RESULT_TAGS, ToolFormat, new_id

if TYPE_CHECKING:
    from llms.engine.request import Piece


class UntaggedTranslator(TextTranslator):
    """A `Translator` of text that leaves out the tag of a tool's result if the answer begins with it."""

    def __init__(self) -> None:
        super().__init__()
        self._held: str | None = ""

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return the chunk of a piece. Text is held back while it may still be the tag."""
        return super().feed(info, self._without_tag(piece))

    def collect(self, info: AnswerInfo, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return the text as one message."""
        return super().collect(info, [self._without_tag(piece) for piece in pieces])

    def _without_tag(self, piece: Piece) -> Piece:
        if self._held is None:
            return piece
        tag, text = f"{RESULT_TAGS[0]}\n", self._held + piece.text
        self._held = text if piece.finish_reason is None and tag.startswith(text) else None
        if self._held is None:
            if text.startswith(tag.strip()):
                text = text.removeprefix(tag.strip()).lstrip("\n")
            return replace(piece, text=text)
        return replace(piece, text="")


class ArgumentsTranslator:
    """A `Translator` of answers that are the arguments of one call.

    Args:
        name: The name of the tool that is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = 0
        self._begun = False

    def feed(self, info: AnswerInfo, piece: Piece) -> list[ChatGenerationChunk]:
        """Return a chunk with the name before the first piece, then the arguments of each piece."""
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
        """Return the call, which is an invalid one if the token limit cut it."""
        text = "".join(piece.text for piece in pieces)
        return message(info, pieces, text="", calls=[(self._name, text)])


class CallsTranslator:
    """A `Translator` of answers that are text, calls, or text followed by calls.

    Args:
        form: The format of the calls.
        opened: Whether the prompt ends with the marker that opens the calls, or with more.
        begun: The text of the prompt after the marker.
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
        """Return the new text before the marker, or the new names and arguments of calls after it."""
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
        """Return the new text, except for an end that may be the beginning of the marker."""
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
        """Return the next part of a call from the buffer, or None if it needs more text."""
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
        """Return more of the arguments, up to the bracket that ends them, or None if there are none."""
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
    """Return the length of the longest end of `text` that begins the marker."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[len(text) - size :]):
            return size
    return 0
