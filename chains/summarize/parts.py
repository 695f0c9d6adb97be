"""Documents as parts that follow headings; of a text that is still coming in, the parts that are whole.

Knows headings, sentences and an upper estimate of tokens; knows no model and no file. Every character of the
text lies in one part: a section longer than the limit is cut between sentences, small neighbours without a
heading stay together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from langchain_core.documents import Document

from chains.sentences import Sentence, split_sentences
from chains.summarize.prose import front_matter, title
from chains.windows import estimate_tokens

PART_TOKENS = 1500
"""Upper estimate of a part's tokens: two of them and a prompt fit a window of 4,096."""


@dataclass(frozen=True)
class Part:
    """A stretch of one source from `start` on; `sentences` have offsets into `text`."""

    heading: str
    source: str
    start: int
    text: str
    sentences: tuple[Sentence, ...]

    @property
    def end(self) -> int:
        """Where it ends, in characters of the source's text."""
        return self.start + len(self.text)


def split_parts(documents: Sequence[Document], max_tokens: int = PART_TOKENS) -> list[Part]:
    """Return the parts of all `documents`, in order."""
    return [
        part for number, one in enumerate(documents, 1) for part in _document_parts(one, number, max_tokens)
    ]


class PartStream:
    """Parts of a text that comes in pieces: a part is given out once the next one has begun."""

    def __init__(self, max_tokens: int = PART_TOKENS) -> None:
        """Keep the upper estimate of a part's tokens."""
        self._limit = max_tokens
        self._pending = ""
        self._start = 0
        self._heading = ""
        self._again = 0

    def feed(self, piece: str) -> list[Part]:
        """Take a piece of the text; return the parts that are whole by now."""
        self._pending += piece
        # A text without line breaks is looked at each time it has doubled, so the work stays linear.
        if "\n" not in piece and len(self._pending) < self._again:
            return []
        self._again = 2 * len(self._pending)
        whole = self._split()
        if len(whole) > 1:
            last = whole.pop()
            self._pending, self._start, self._heading = last.text, last.start, whole[-1].heading
            return whole
        return []

    def rest(self) -> list[Part]:
        """Return what is left as parts, and begin anew."""
        found = self._split()
        self._pending, self._start, self._heading, self._again = "", 0, "", 0
        return found

    @property
    def pending(self) -> bool:
        """Whether there is text that no part was made of yet."""
        return bool(self._pending.strip())

    def _split(self) -> list[Part]:
        if not self.pending:
            return []
        document = Document(self._pending, metadata={"heading": self._heading})
        return list(_document_parts(document, 1, self._limit, self._start))


def _document_parts(document: Document, number: int, limit: int, offset: int = 0) -> Iterator[Part]:
    text = document.page_content
    source = str(document.metadata.get("source") or document.id or f"text {number}")
    front = front_matter(text) if offset == 0 else 0
    heading = str(document.metadata.get("heading") or (title(text) if front else ""))
    held: list[Sentence] = []
    start = size = 0
    for sentence in split_sentences(text, max_chars=max(16, min(600, limit))):
        if sentence.end <= front:
            # Header fields are facts about the text, none of its sentences.
            sentence = replace(sentence, kind="table")
        tokens = estimate_tokens(sentence.text)
        opens = sentence.kind == "heading"
        if held and (opens or size + tokens > limit) and any(one.kind != "heading" for one in held):
            yield _part(heading, source, text[start : sentence.start], offset + start, held, start)
            held, start, size = [], sentence.start, 0
        if opens:
            heading = sentence.flat.strip("# =*")
        held.append(sentence)
        size += tokens
    if held:
        yield _part(heading, source, text[start:], offset + start, held, start)


def _part(heading: str, source: str, text: str, start: int, held: Sequence[Sentence], moved_by: int) -> Part:
    moved = tuple(replace(one, start=one.start - moved_by, end=one.end - moved_by) for one in held)
    return Part(heading, source, start, text, moved)
