"""Parts of a text, which follow its headings, and what in a part does not belong in a summary.

`split_parts` cuts documents into parts, and `PartStream` does so while a text is still coming in. Every
character of the text is in exactly one part: a section longer than the limit is cut between sentences, and
short neighbours without a heading stay together.

Front matter, inline markup, and sentences that need the one before them do not read well in a summary. They
are recognized by the conventions of Markdown, reStructuredText and mail.

    >>> lines = ["# Wood", "", "Wood burns.", "", "# Iron", "", "Iron melts."]
    >>> [(part.heading, part.start, part.end) for part in split_parts([Document(chr(10).join(lines))])]
    [('Wood', 0, 21), ('Iron', 21, 40)]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from langchain_core.documents import Document

from chains.text.sentences import Sentence, split_sentences
from chains.text.windows import estimate_tokens

# ruff: noqa: RUF001 - the patterns match typographic quotes.


_FIELD = r"[A-Z][\w-]{0,24}:(?=[ \t\n])[^\n]*(?:\n|\Z)(?:[ \t]+\S[^\n]*(?:\n|\Z))*"
_FRONT = re.compile(rf"\s*(?:---[ \t]*\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*\n|(?:{_FIELD}){{2,}}(?=\s|\Z))")
_TITLE = re.compile(r"^(?:title|subject)[ \t]*:[ \t]*['\"]?(\S[^\n]*?)['\"]?[ \t]*$", re.I | re.M)

_MARKUP: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"!?\[([^\]\n]+)\]\([^)\s]*\)"), r"\1"),  # Markdown links and images
    (re.compile(r"(?<!\w)\[(?:\^|#)?[\w-]+\]_(?!\w)|\[\^[\w-]+\]"), ""),  # footnote marks
    (re.compile(r":(pep|rfc):`~?([^`<\n]+?)(?:\s*<[^>\n]*>)?`"), lambda m: f"{m[1].upper()} {m[2]}"),
    (re.compile(r":[a-z][\w:+.-]*:`~?([^`<\n]+?)(?:\s*<[^>\n]*>)?`"), r"\1"),  # roles: :rfc:`2440`
    (re.compile(r"(?<!`)`([^`<\n]+?)\s*<[^>\n]*>`__?"), r"\1"),  # links: `text <url>`_
    (re.compile(r"(?<!`)`([^`\n]+)`__?(?!\w)"), r"\1"),
    (re.compile(r"``([^`\n]+)``"), r"`\1`"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*(\w[^*\n]*?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\\([*_`|\\])"), r"\1"),
    (re.compile(r"\s+(?=[.,;:](?:\s|$))"), ""),  # the space that a footnote mark leaves
)
_ABOUT = (
    "article|book|chapter|document|guide|issue|manual|memo|message|page|paper|pep|policy|post|proposal|readme|"
    "report|rfc|section|specification|standard|story|study|survey|text|tutorial|work"
)
_NEEDS_CONTEXT = re.compile(
    rf"(?:this(?!\s+(?:{_ABOUT})\b)|these|that|those|it|its|they|their|he|she|his|her|such|here|there(?:fore)?|"
    r"however|thus|hence|also|then|but|and|or|so|otherwise|instead|similarly|likewise|moreover|furthermore|"
    r"nevertheless|consequently|accordingly|additionally|conversely|again|yet|as such|as a result|"
    r"in (?:this|that|these|such|addition|other words|contrast)|for (?:example|instance|this)|"
    r"on the other hand|the (?:latter|former|above|following|same|other)|both|neither|"
    r"another|one of (?:these|them))"
    r"\b",
    re.I,
)
_PURPOSE = re.compile(
    rf"(?:this|the present)\s+(?:{_ABOUT})\s+(?:(?:also|therefore|thus|first)\s+)?"
    r"(?:proposes?|describes?|specif\w+|introduces?|defines?|presents?|explains?|provides?|adds?|aims?|shows?|"
    r"argues?|reports?|suggests?|outlines?|documents?|discusses|covers?|tells)\b|"
    r"\bwe (?:propose|present|show|introduce|find|argue|report)\b|"
    r"\b(?:in summary|in short|in conclusion|to sum up|it is proposed)\b",
    re.I,
)


def front_matter_end(text: str) -> int:
    """Return the offset after the header fields of a mail, a PEP or YAML that `text` begins with, or 0."""
    found = _FRONT.match(text)
    return found.end() if found else 0


def title(text: str) -> str:
    """Return the title or subject in the header fields of `text`, or ""."""
    found = _TITLE.search(text, 0, front_matter_end(text))
    return found.group(1) if found else ""


def without_markup(text: str) -> str:
    """Return `text` on one line, with links, roles and emphasis replaced by their words.

    >>> without_markup("See [the guide](https://example.org) for **all** ``flags``.")
    'See the guide for all `flags`.'
    """
    for pattern, kept in _MARKUP:
        text = pattern.sub(kept, text)
    return " ".join(text.split())


def needs_context(sentence: str) -> bool:
    """Return True if a sentence needs the one before it: "It is …", "However, …", a question, a fragment."""
    text = sentence.strip().lstrip("\"'“‘*_")
    torn = text[:1].islower() or text[:1] in "([,;)" or text.count("(") != text.count(")")
    return (
        torn
        or text.rstrip()[-1:].isalnum()
        or text.rstrip().endswith("?")
        or _NEEDS_CONTEXT.match(text) is not None
    )


def states_purpose(sentence: str) -> bool:
    """Return True if a sentence states the purpose of the text: "This report describes …".

    The method is that of cue phrases (Edmundson 1969, "New methods in automatic extracting").
    """
    return _PURPOSE.search(sentence) is not None


PART_TOKENS = 1500
"""Upper estimate of the tokens in a part. Two parts and a prompt fit a window of 4,096 tokens."""


@dataclass(frozen=True)
class Part:
    """A piece of one source from the offset `start` on; its `sentences` have offsets into its `text`."""

    heading: str
    source: str
    start: int
    text: str
    sentences: tuple[Sentence, ...]

    @property
    def end(self) -> int:
        """The offset of its end in the source's text."""
        return self.start + len(self.text)


def split_parts(documents: Sequence[Document], max_tokens: int = PART_TOKENS) -> list[Part]:
    """Return the parts of all `documents`, in order, each of at most `max_tokens` estimated tokens."""
    return [
        part for number, one in enumerate(documents, 1) for part in _document_parts(one, number, max_tokens)
    ]


class PartStream:
    """Parts of a text that comes in pieces; a part is returned when the next one has begun."""

    def __init__(self, max_tokens: int = PART_TOKENS) -> None:
        """Start with an empty text; `max_tokens` is the upper estimate of the tokens in a part."""
        self._limit = max_tokens
        self._pending = ""
        self._start = 0
        self._heading = ""
        self._again = 0

    def feed(self, piece: str) -> list[Part]:
        """Add a piece of the text; return the parts that are now complete."""
        self._pending += piece
        # A text without line breaks is split each time it has doubled, so the work stays linear.
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
        """Return the parts of the text that is left, and start again with an empty text."""
        found = self._split()
        self._pending, self._start, self._heading, self._again = "", 0, "", 0
        return found

    @property
    def pending(self) -> bool:
        """True if there is text that is not in a part yet."""
        return bool(self._pending.strip())

    def _split(self) -> list[Part]:
        if not self.pending:
            return []
        document = Document(self._pending, metadata={"heading": self._heading})
        return list(_document_parts(document, 1, self._limit, self._start))


def _document_parts(document: Document, number: int, limit: int, offset: int = 0) -> Iterator[Part]:
    text = document.page_content
    source = str(document.metadata.get("source") or document.id or f"text {number}")
    front = front_matter_end(text) if offset == 0 else 0
    heading = str(document.metadata.get("heading") or (title(text) if front else ""))
    sentences: list[Sentence] = []
    start = size = 0
    for sentence in split_sentences(text, max_chars=max(16, min(600, limit))):
        if sentence.end <= front:
            # Header fields are facts about the text and not sentences of it.
            sentence = replace(sentence, kind="table")
        tokens = estimate_tokens(sentence.text)
        opens = sentence.kind == "heading"
        if sentences and (opens or size + tokens > limit) and any(one.kind != "heading" for one in sentences):
            yield _part(heading, source, text[start : sentence.start], offset + start, sentences, start)
            sentences, start, size = [], sentence.start, 0
        if opens:
            heading = sentence.flat.strip("# =*")
        sentences.append(sentence)
        size += tokens
    if sentences:
        yield _part(heading, source, text[start:], offset + start, sentences, start)


def _part(
    heading: str, source: str, text: str, start: int, sentences: Sequence[Sentence], moved_by: int
) -> Part:
    moved = tuple(replace(one, start=one.start - moved_by, end=one.end - moved_by) for one in sentences)
    return Part(heading, source, start, text, moved)
