"""What summarizing returns, and the style it is asked for.

Knows the shape of a summary and which options there are; knows no model and no text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, overload

from chains.errors import OptionError, excerpt
from chains.options import require_whole


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a summary is to be.

    `sentences` (1 to 100, else 3) or `words` (10 to 5,000) give its length; `words` is a limit, reached to
    within a sentence. `bullets` puts each sentence on a line of its own, `tldr` makes it one sentence.
    `focus` is a question that the summary keeps to. `audience` and `language` need a model that writes.
    """

    sentences: int | None = None
    words: int | None = None
    bullets: bool = False
    tldr: bool = False
    focus: str = ""
    audience: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        """Check kinds and ranges; raises OptionError."""
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
        """The most sentences that the summary may have."""
        if self.tldr:
            return 1
        if self.words is not None:
            return max(1, self.words // 8)
        return self.sentences or 3

    def lead(self, place: int) -> str:
        """Return what stands before the sentence at `place`."""
        if self.bullets:
            return "- " if place == 0 else "\n- "
        return "" if place == 0 else " "


@dataclass(frozen=True)
class SummarySentence:
    """A sentence of a summary; `part` is the place of its part, `quote` that part's own words."""

    text: str
    part: int
    quote: str


@dataclass(frozen=True)
class SummaryPart:
    """A part of the text: a section or a piece of one; offsets are characters of its source's text."""

    heading: str
    source: str
    start: int
    end: int


@dataclass(frozen=True)
class Summary:
    """A summary: `text`, and each of its sentences with the part it comes from.

    `method` is "extractive" (sentences chosen) or "written" (sentences written, then checked); `calls` counts
    calls of the model, `cached` the parts that a former run had done. `repaired` and `dropped` count written
    sentences that held a number or a name which their part does not. `unread` holds path and reason of each
    file of a folder that could not be read.
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)

    def __add__(self, other: Summary) -> Summary:
        """Give way to a later summary, as refining yields one after each part."""
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
        """Join pieces; a whole summary replaces what came before it."""
        if isinstance(other, SummaryDelta):
            return SummaryDelta(self.text + other.text)
        return other if isinstance(other, Summary) else NotImplemented
