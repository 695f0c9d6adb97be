"""From token ids to text pieces: incremental detokenization and stop strings.

Knows a tokenizer's `decode` and strings; refuses to know models and requests. A piece never ends inside a
character, nor inside what may still become a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_TAIL = 4
"""Prompt tokens decoded in front of the answer: a SentencePiece decoder drops the space of the first word."""


class Detokenizer:
    """Turns one token after another into text.

    Args:
        decode: Token ids -> text (special tokens left out).
        prompt: Ids before the first token; the end of it decides about a leading space.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt[-_TAIL:])
        self._shown = decode(self._ids) if self._ids else ""
        self._pending = 0

    def push(self, token: int) -> str:
        """Return the text that this token completes; "" while a character is incomplete."""
        self._ids.append(token)
        self._pending += 1
        text = self._decode(self._ids)
        # A character has at most four bytes and a token at least one: after four the bytes are broken for
        # good.
        if text.endswith(_REPLACEMENT) and self._pending < 4:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """Return what is left at the end, an incomplete character as U+FFFD."""
        return self._advance(self._decode(self._ids)) if self._pending else ""

    def _advance(self, text: str) -> str:
        new, self._pending, self._shown = text[len(self._shown) :], 0, text
        if len(self._ids) > 4 * _TAIL:
            # A short window keeps a token O(1); it must start on a character, or its first bytes decode
            # otherwise once others follow.
            for size in range(_TAIL, 3 * _TAIL):
                shown = self._decode(self._ids[-size:])
                if _REPLACEMENT not in shown:
                    self._ids, self._shown = self._ids[-size:], shown
                    break
        return new


class StopScanner:
    """Cuts a stream of text before the first stop string.

    Args:
        stops: Stop strings; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Return the text that is safe to show; sets `hit` once a stop string is complete."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            # At one place the longer stop string wins: it is what the text holds.
            place, self.hit = min(found, key=lambda f: (f[0], -len(f[1])))
            self._held = ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - size :]):
            return size
    return 0
