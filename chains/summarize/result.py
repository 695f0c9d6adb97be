"""The result of `summarize_chain`, and the style that it is asked for.

    >>> style = Style(words=100, bullets=True, focus="What does it cost?")
    >>> SummaryDelta(style.lead(0)) + SummaryDelta("It costs nothing.")
    SummaryDelta(text='- It costs nothing.')

Checkpoints name these classes by their module, so they stay in this one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, overload

from chains.errors import OptionError, excerpt
from chains.options import require_whole
from chains.records import restore_tuples


@dataclass(frozen=True, kw_only=True)
class Style:
    """Length, form and subject of a summary.

    Args:
        sentences: Length in sentences, 1 to 100. The default is 3.
        words: Length in words instead, 10 to 5,000. The summary is at most one sentence shorter.
        bullets: Put each sentence on a line of its own.
        tldr: Write one sentence.
        focus: A question that the summary should answer.
        audience: The reader it is written for. Needs a model that writes.
        language: The language it is written in. Needs a model that writes.

    Raises:
        OptionError: A value is out of range, or two lengths are given.
    """

    sentences: int | None = None
    words: int | None = None
    bullets: bool = False
    tldr: bool = False
    focus: str = ""
    audience: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        if self.sentences is not None:
            require_whole("sentences", self.sentences, 1, 100)
        if self.words is not None:
            require_whole("words", self.words, 10, 5000)
        for name in ("focus", "audience", "language"):
            if not isinstance(value := getattr(self, name), str):
                raise OptionError(f"expected {name} to be a text, found {excerpt(value)}: pass a str")
        if self.words is not None and self.sentences is not None:
            raise OptionError(
                f"expected words or sentences, found both ({self.words!r} and {self.sentences!r}): pass one"
            )
        if self.tldr and (self.words is not None or self.sentences not in (None, 1)):
            raise OptionError("expected tldr=True without another length, found both: pass one of them")

    @property
    def most_sentences(self) -> int:
        """The largest number of sentences that the summary may have."""
        if self.tldr:
            return 1
        if self.words is not None:
            return max(1, self.words // 8)
        return self.sentences or 3

    def lead(self, place: int) -> str:
        """Return the space or bullet that goes before the sentence at `place`."""
        if self.bullets:
            return "- " if place == 0 else "\n- "
        return "" if place == 0 else " "


@dataclass(frozen=True)
class SummarySentence:
    """A sentence of a summary, the index of its part, and the sentence of that part that it rests on."""

    text: str
    part: int
    quote: str


@dataclass(frozen=True)
class SummaryPart:
    """A section of the text, or a piece of one; `start` and `end` are offsets into its source's text."""

    heading: str
    source: str
    start: int
    end: int


@dataclass(frozen=True)
class Summary:
    """A summary, with the part that each of its sentences comes from.

    >>> part = SummaryPart(heading="Repairs", source="bridge.md", start=0, end=900)
    >>> sentence = SummarySentence("The bridge is closed.", part=0, quote="The bridge is closed.")
    >>> summary = Summary("The bridge is closed.", sentences=(sentence,), parts=(part,))
    >>> [(one.text, summary.parts[one.part].heading) for one in summary.sentences]
    [('The bridge is closed.', 'Repairs')]

    Attributes:
        text: The summary.
        sentences: Its sentences, each with its part.
        parts: The parts of all sources, in order.
        sources: The sources, in order.
        method: "extractive" (sentences chosen) or "written" (sentences written, then checked).
        calls: Number of calls of the model.
        cached: Number of parts taken from the cache.
        repaired: Number of written sentences that were replaced by one of the text, because they contained a
            number or a name that their part does not.
        dropped: Number of written sentences that were left out for the same reason.
        unread: Path and reason for each file of a folder that could not be read.
    """

    text: str
    sentences: tuple[SummarySentence, ...] = ()
    parts: tuple[SummaryPart, ...] = ()
    sources: tuple[str, ...] = ()
    method: str = "extractive"
    calls: int = 0
    cached: int = 0
    repaired: int = 0
    dropped: int = 0
    unread: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Keep tuples as tuples."""
        restore_tuples(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as dicts and lists, ready for JSON."""
        return asdict(self)

    def __add__(self, other: Summary) -> Summary:
        """Return the later summary, because refining yields one after each part."""
        return other if isinstance(other, Summary) else NotImplemented


@dataclass(frozen=True)
class SummaryDelta:
    """A piece of a summary's text."""

    text: str

    @overload
    def __add__(self, other: SummaryDelta) -> SummaryDelta: ...
    @overload
    def __add__(self, other: Summary) -> Summary: ...
    def __add__(self, other: SummaryDelta | Summary) -> SummaryDelta | Summary:
        """Join two pieces; the whole summary, which comes last in a stream, replaces them."""
        if isinstance(other, SummaryDelta):
            return SummaryDelta(self.text + other.text)
        return other if isinstance(other, Summary) else NotImplemented
