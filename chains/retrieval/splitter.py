"""Cuts a document into chunks that fit the embedder's window, each with its heading, page and offsets.

Knows text, blocks and token spans. Refuses to know formats, models and databases. Chunks are measured in the
embedder's tokens together with the header (title and heading path) that is embedded with them; they are cut,
in this order of preference, between paragraphs, sentences or list items, lines, words. Nothing of a block is
left out.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from chains.retrieval.document import Block, Chunk, ParsedDocument, chunk_header

Spans = Callable[[str], list[tuple[int, int]]]

# Where a chunk may end, best first: the position after each match.
_BOUNDARIES: tuple[tuple[int, re.Pattern[str]], ...] = (
    (4, re.compile(r"\n[ \t]*\n\s*")),
    (3, re.compile(r"(?<=[.!?\u3002\uff01\uff1f])[\"')\]]*\s+|\n(?=[ \t]*(?:[-*+•|]|\d+[.)])[ \t])")),
    (2, re.compile(r"\n")),
    (1, re.compile(r"\s+")),
)
# A "word" without end (a minified file, base64) is one unknown token; this caps a chunk in characters too.
_MAX_CHARS_PER_TOKEN = 12
_SEGMENT_CHARS = 200_000
_HEADER_SHARE = 4  # the header may take a quarter of the window


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitterConfig:
    """How chunks are cut: `max_tokens` with header, `overlap_tokens` repeated, merging to `min_tokens`."""

    max_tokens: int = 254
    overlap_tokens: int = 0
    min_tokens: int = 64
    version: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens < 16 or not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise ValueError(
                "expected max_tokens >= 16 and overlap_tokens within half of it, found "
                f"{self.max_tokens!r} and {self.overlap_tokens!r}; leave them at their defaults"
            )

    def to_json(self) -> str:
        """The settings as one line of JSON, as the store records them."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> SplitterConfig:
        """The settings that `to_json` wrote."""
        return cls(**json.loads(line))


class Splitter:
    """Documents to chunks, measured by `spans`, the token spans of a text in the embedder's tokens."""

    def __init__(self, spans: Spans, config: SplitterConfig | None = None) -> None:
        self.spans = spans
        self.config = config or SplitterConfig()

    def split(self, document: ParsedDocument) -> list[Chunk]:
        """The chunks of `document` in order; empty where it holds no text."""
        chunks: list[Chunk] = []
        title = self._shorten(document.title)
        for block in self._merge_small(document):
            heading = self._shorten(block.heading)
            header_tokens = len(self.spans(chunk_header(title, heading)))
            budget = max(8, self.config.max_tokens - header_tokens)
            for start, end, tokens in self._cut(document.text, block.start, block.end, budget):
                chunks.append(
                    Chunk(
                        ordinal=len(chunks),
                        start=start,
                        end=end,
                        text=document.text[start:end],
                        title=title,
                        heading=heading,
                        page=block.page,
                        tokens=tokens + header_tokens,
                    )
                )
        return chunks

    def _merge_small(self, document: ParsedDocument) -> Iterator[Block]:
        """Blocks in order, small neighbours joined: one line under a heading says little alone.

        Only blocks of one page and of one parent heading are joined; the joined block carries what their
        headings share, the first heading where they are nested.
        """
        held: Block | None = None
        for block in document.blocks:
            if not document.text[block.start : block.end].strip():
                continue
            if held is not None:
                heading = _joint_heading(held.heading, block.heading)
                same = heading is not None and held.page == block.page
                if same and self._small(document.text, held, block):
                    held = Block(start=held.start, end=block.end, heading=heading or "", page=held.page)
                    continue
                yield held
            held = block
        if held is not None:
            yield held

    def _small(self, text: str, first: Block, second: Block) -> bool:
        limit = self.config.min_tokens
        return (
            second.end - first.start <= limit * _MAX_CHARS_PER_TOKEN
            and len(self.spans(text[first.start : second.end])) <= limit
        )

    def _shorten(self, heading: str) -> str:
        """At most an eighth of the window: the last parts of a heading path are kept, they say the most."""
        limit = self.config.max_tokens // (2 * _HEADER_SHARE)
        heading = " ".join(heading.split())
        while len(spans := self.spans(heading)) > limit:
            _, found, rest = heading.partition(" > ")
            if not found:
                return heading[: spans[limit - 1][1]]
            heading = rest
        return heading[: limit * _MAX_CHARS_PER_TOKEN]

    def _cut(self, text: str, start: int, end: int, budget: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, tokens) of each chunk of `text[start:end]`, white space at the rims left off."""
        start, end = _trim(text, start, end)
        while end - start > _SEGMENT_CHARS:
            # Token offsets of a large file would fill the memory: it is cut a stretch at a time.
            stop = text.rfind("\n", start + _SEGMENT_CHARS // 2, start + _SEGMENT_CHARS) + 1
            stop = stop or start + _SEGMENT_CHARS
            yield from self._cut(text, start, stop, budget)
            start, end = _trim(text, stop, end)
        section = text[start:end]
        # Positions without tokens (control characters) still belong to a chunk.
        starts = [first for first, _ in self.spans(section)]
        cuts = _boundaries(section)
        position = 0
        while position < len(section):
            stop = self._stop(section, starts, cuts, position, budget)
            a, b = _trim(section, position, stop)
            if a < b:
                first = bisect.bisect_left(starts, a)
                yield start + a, start + b, bisect.bisect_left(starts, b) - first
            if stop >= len(section):
                return
            position = self._restart(starts, cuts, position, stop)

    def _stop(
        self, section: str, starts: list[int], cuts: list[tuple[int, int]], at: int, budget: int
    ) -> int:
        """The best end of a chunk that starts at `at` and holds at most `budget` tokens."""
        first = bisect.bisect_left(starts, at)
        reach = starts[first + budget] if first + budget < len(starts) else len(section)
        reach = min(reach, at + budget * _MAX_CHARS_PER_TOKEN)
        if reach >= len(section):
            return len(section)
        half = starts[first + budget // 2] if first + budget // 2 < len(starts) else at
        half = min(half, at + (reach - at) // 2)
        low = bisect.bisect_right(cuts, (half, 9))
        high = bisect.bisect_right(cuts, (reach, 9))
        best = max(cuts[low:high], key=lambda cut: (cut[1], cut[0]), default=None)
        if best is None:
            low = bisect.bisect_right(cuts, (at, 9))
            best = max(cuts[low:high], key=lambda cut: (cut[1], cut[0]), default=None)
        return best[0] if best else reach

    def _restart(self, starts: list[int], cuts: list[tuple[int, int]], at: int, stop: int) -> int:
        """Where the next chunk starts: at `stop`, or a sentence's start up to `overlap_tokens` before it."""
        if not self.config.overlap_tokens:
            return stop
        back = starts[max(0, bisect.bisect_left(starts, stop) - self.config.overlap_tokens)]
        low = bisect.bisect_left(cuts, (max(back, at + 1), 0))
        for position, level in cuts[low:]:
            if position >= stop:
                break
            if level >= 3:
                return position
        return stop


def _boundaries(section: str) -> list[tuple[int, int]]:
    """Sorted (position, level): where a chunk may end, the highest level kept for each position."""
    levels: dict[int, int] = {}
    for level, pattern in _BOUNDARIES:
        for match in pattern.finditer(section):
            levels.setdefault(match.end(), level)
    return sorted(levels.items())


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _joint_heading(first: str, second: str) -> str | None:
    if first == second or second.startswith(f"{first} > "):
        return first
    a, b = first.rpartition(" > ")[0], second.rpartition(" > ")[0]
    return a if a == b else None
