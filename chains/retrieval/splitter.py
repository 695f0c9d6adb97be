"""Splits a document into chunks that fit the embedder's window, each with its heading, page and offsets.

A chunk is measured in the embedder's tokens, together with the header (title and heading path) that is
embedded with it. Chunks end, in this order of preference, between paragraphs, sentences or list items, lines
and words. All text of a block ends up in a chunk.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from chains.retrieval.document import Block, Chunk, ParsedDocument, chunk_header, overlapping

# Returns the character span of each token of a text.
Spans = Callable[[str], list[tuple[int, int]]]

# Where a chunk may end, best first: at the position after each match. The number is the level.
_BOUNDARIES: tuple[tuple[int, re.Pattern[str]], ...] = (
    (4, re.compile(r"\n[ \t]*\n\s*")),
    (3, re.compile(r"(?<=[.!?\u3002\uff01\uff1f])[\"')\]]*\s+|\n(?=[ \t]*(?:[-*+•|]|\d+[.)])[ \t])")),
    (2, re.compile(r"\n")),
    (1, re.compile(r"\s+")),
)
# A very long "word" (a minified file, base64) is one unknown token, so chunks are also limited in characters.
_MAX_CHARS_PER_TOKEN = 12
# Token offsets of a large file would fill the memory, so it is tokenized in segments.
_SEGMENT_CHARS = 200_000
# The header (title and heading path) may take a quarter of the window, and each of the two half of that.
_HEADER_SHARE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitterConfig:
    """How documents are split. A store keeps its settings and refuses others until it is embedded anew.

    Args:
        max_tokens: The length of a chunk, including its header. A larger value than the embedder's window is
            possible; the vector of such a chunk is the mean of its parts.
        overlap_tokens: How many tokens of a chunk the next one may repeat, from the start of a sentence.
        min_tokens: Neighbouring blocks under one heading are merged as long as they have at most this many
            tokens together.
        version: The version of the splitting rules.

    >>> from chains.retrieval import SplitterConfig
    >>> SplitterConfig(max_tokens=128, overlap_tokens=16)
    SplitterConfig(max_tokens=128, overlap_tokens=16, min_tokens=64, version=1)
    """

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
        """Return the settings as one line of JSON, as a store records them."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> SplitterConfig:
        """Return the settings that `to_json` wrote."""
        return cls(**json.loads(line))


class Splitter:
    """Splits documents into chunks.

    Args:
        spans: Returns the token spans of a text in the embedder's tokens.
        config: The settings.
    """

    def __init__(self, spans: Spans, config: SplitterConfig | None = None) -> None:
        self.spans = spans
        self.config = config or SplitterConfig()

    def split(self, document: ParsedDocument) -> list[Chunk]:
        """Return the chunks of `document` in order; an empty list if it has no text."""
        chunks: list[Chunk] = []
        title = self._shorten(document.title)
        for block in self._merge_small(document):
            heading = self._shorten(block.heading)
            header_tokens = len(self.spans(chunk_header(title, heading)))
            budget = max(8, self.config.max_tokens - header_tokens)
            place, place_at = dict(block.place), block.start
            for start, end, tokens in self._cut(document.text, block.start, block.end, budget):
                for unit in place.keys() & {"line", "row"}:
                    place[unit] += document.text.count("\n", min(place_at, start), start)
                place_at = start
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
                        place=dict(place),
                        boxes=overlapping(document.boxes, start, end) if document.boxes else (),
                    )
                )
        return chunks

    def _merge_small(self, document: ParsedDocument) -> Iterator[Block]:
        """Yield the blocks with small neighbours merged, as far as no heading is lost.

        A section under a heading of its own stays by itself: in a list of questions each answer belongs to
        its question. Merged are neighbours on one page that have one heading; a heading without text of its
        own and the section below it, whose path of headings contains it; and definitions in source code,
        whose names stand in the text.
        """
        merged: Block | None = None
        for block in document.blocks:
            if not document.text[block.start : block.end].strip():
                continue
            if merged is not None:
                heading = _merged_heading(document, merged, block)
                if heading is not None and self._fits_min_tokens(document.text, merged, block):
                    merged = replace(merged, end=block.end, heading=heading)
                    continue
                yield merged
            merged = block
        if merged is not None:
            yield merged

    def _fits_min_tokens(self, text: str, first: Block, second: Block) -> bool:
        limit = self.config.min_tokens
        return (
            second.end - first.start <= limit * _MAX_CHARS_PER_TOKEN
            and len(self.spans(text[first.start : second.end])) <= limit
        )

    def _shorten(self, heading: str) -> str:
        """Return at most an eighth of the window: the last parts of a heading path, which say the most."""
        limit = self.config.max_tokens // (2 * _HEADER_SHARE)
        heading = " ".join(heading.split())
        while len(spans := self.spans(heading)) > limit:
            _, found, rest = heading.partition(" > ")
            if not found:
                return heading[: spans[limit - 1][1]]
            heading = rest
        return heading[: limit * _MAX_CHARS_PER_TOKEN]

    def _cut(self, text: str, start: int, end: int, budget: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, tokens) of each chunk of `text[start:end]`, without white space at its ends."""
        start, end = _trim(text, start, end)
        while end - start > _SEGMENT_CHARS:
            stop = text.rfind("\n", start + _SEGMENT_CHARS // 2, start + _SEGMENT_CHARS) + 1
            stop = stop or start + _SEGMENT_CHARS
            yield from self._cut(text, start, stop, budget)
            start, end = _trim(text, stop, end)
        section = text[start:end]
        # Characters without tokens (control characters) still belong to a chunk.
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
        """Return the best end of a chunk that starts at `at` and has at most `budget` tokens."""
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
        """Return the start of the next chunk: `stop`, or a sentence's start up to `overlap_tokens` before."""
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
    """Return the sorted (position, level) at which a chunk may end, with each position's highest level."""
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


def _merged_heading(document: ParsedDocument, first: Block, second: Block) -> str | None:
    """Return the heading of two blocks as one, or None if one of them would lose its own."""
    if first.page != second.page:
        return None
    if first.heading == second.heading:
        return first.heading
    below = first.heading in ("", document.title) or second.heading.startswith(f"{first.heading} > ")
    if below and _is_heading_only(document, first):
        return second.heading
    if document.kind != "source":
        return None
    if below:
        return first.heading
    a, b = first.heading.rpartition(" > ")[0], second.heading.rpartition(" > ")[0]
    return a if a == b else None


def _is_heading_only(document: ParsedDocument, block: Block) -> bool:
    """Return whether a block is nothing but its heading, or the document's title."""
    text = _letters(document.text[block.start : block.end])
    return text in (_letters(block.heading.rpartition(" > ")[2]), _letters(document.title))


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text[:1000]).casefold()
