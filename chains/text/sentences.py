"""Sentences of a text, as spans that can be cited.

No character is changed: `text[s.start:s.end] == s.text` for every sentence `s`. The text is first cut into
blocks (paragraphs, list items, headings, fenced and indented code, rows of tables), and no sentence crosses
a block. Abbreviations, initials, decimals and version numbers do not end a sentence. The end marks of Latin,
Cyrillic, Greek, CJK, Arabic and Devanagari scripts are known; a text in another script is cut at its lines.

    >>> [s.text for s in split_sentences("It runs on Python 3.11, e.g. on Linux. Does it? Yes.")]
    ['It runs on Python 3.11, e.g. on Linux.', 'Does it?', 'Yes.']
"""

# ruff: noqa: RUF001 - the patterns match typographic quotes and full-width marks.

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from chains.text.rows import cells, label

Kind = Literal["prose", "item", "heading", "code", "table", "row"]

MAX_CHARS = 600
"""A longer sentence is cut at the last space before this length, so a 100 MB line becomes short spans."""

_PARENT_CHARS = 80
"""Characters of an item that are kept for the items below it."""

_ABBREVIATIONS = frozenset(
    "e.g i.e etc cf vs viz al fig figs eq eqs no nos nr vol ch sec p pp ed eds rev approx resp incl excl ca "
    "mr mrs ms dr prof st jr sr inc ltd co corp dept est jan feb mar apr jun jul aug sep sept oct nov dec "
    "u.s u.k a.m p.m ph.d z.b d.h usw bzw ggf vgl".split()
)
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_ITEM = re.compile(
    r"^\s*(?:[-*+•–]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|#\.)\s+(?=\S)|^\s*:[A-Za-z][\w -]{0,40}:\s+(?=\S)"
)
_ATX = re.compile(r"^ {0,3}#{1,6}\s+\S")
_RULE = re.compile(r"^\s*([=\-~^\"'`#*+.:_])\1{2,}\s*$")
_TABLE = re.compile(r"^\s*(?:\|.*\||\+[-=+]{3,}\+?|[=-]{3,}(?:\s+[=-]{3,})+)\s*$")
_CODE = re.compile(
    r"^\s*(?:>>>|\.\.\.\s|\$\s|def\s+\w+\(|class\s+\w+|import\s+\w|from\s+[\w.]+\s+import|return\b|for\s.+:$|if\s.+:$|@\w)"
    r"|[;{}]\s*$|^\s*[\w.]+\s*(?:=|\+=)\s*\S|^\s*[\w.]+\(.*\)\s*$"
)
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_`]*(?=\s|$)|[。！？｡]+[」』”’）]*|[؟।॥]+(?=\s|$)")
_OPENER = re.compile(r"[\s\"'“‘«(\[*_`]*")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and its place: `start` and `end` are character offsets into the text it comes from.

    `parent` is the text of the list items above a nested item, without which it may say nothing.
    """

    text: str
    start: int
    end: int
    kind: Kind
    parent: str = ""

    @property
    def flat(self) -> str:
        """The sentence on one line, with each run of white space replaced by one space."""
        return " ".join(self.text.split())


def split_sentences(text: str, *, max_chars: int = MAX_CHARS) -> list[Sentence]:
    """Return the sentences of `text`, in order and without overlap.

    >>> [(s.kind, s.text) for s in split_sentences("Two rules: be kind. Be brief.", max_chars=12)]
    [('item', 'Two rules:'), ('item', 'be kind.'), ('item', 'Be brief.')]

    Args:
        text: Plain text, Markdown or reStructuredText.
        max_chars: A longer sentence is cut at a space.
    """
    found: list[Sentence] = []
    above: list[tuple[int, str]] = []  # the open list items: their indentation and text
    for start, end, kind in _blocks(text):
        depth = _indentation(text, start)
        above = [item for item in above if item[0] < depth] if kind == "item" or depth == 0 else above
        parent = ", ".join(item for _, item in above) if kind == "item" else ""
        spans = _ends(text, start, end) if kind in ("prose", "item") else [(start, end)]
        sentences = [s for first, last in spans for s in _bounded(text, first, last, kind, max_chars)]
        found += [replace(one, parent=parent) for one in sentences] if parent else sentences
        if kind == "item" and sentences:
            above.append((depth, sentences[0].flat.rstrip(":")[:_PARENT_CHARS]))
    return found


def _indentation(text: str, at: int) -> int:
    """Return the columns before the first character of the line that holds offset `at`."""
    start = text.rfind("\n", 0, at) + 1
    line = text[start : at + 1].expandtabs(4)
    return len(line) - len(line.lstrip())


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, end
        start = end + 1


@dataclass(slots=True)
class _Blocks:
    """Collects the blocks of a text line by line; `emit` closes the open block."""

    text: str
    spans: list[tuple[int, int, Kind]]
    start: int = -1
    end: int = -1
    kind: Kind = "prose"
    fence: str = ""
    literal: bool = False

    def emit(self) -> None:
        if self.start >= 0 and self.text[self.start : self.end].strip():
            self.spans.append((self.start, self.end, self.kind))
            tail = self.text[max(self.start, self.end - 2) : self.end]
            self.literal = self.kind in ("prose", "item") and tail == "::"
        self.start = -1

    def begin(self, start: int, end: int, kind: Kind) -> None:
        self.emit()
        self.start, self.end, self.kind = start, end, kind

    def line(self, start: int, end: int) -> None:
        line = self.text[start:end]
        if self._fenced(line, start, end):
            return
        if line.strip():
            self._filled(line, start, end)
        elif self.kind != "code" or self.start < 0:
            self.emit()

    def _filled(self, line: str, start: int, end: int) -> None:
        indented = line[:1] in " \t"
        if self.start >= 0 and self.kind == "code" and (indented or line.lstrip().startswith(">>>")):
            self.end = end
        elif _RULE.match(line) and not _TABLE.match(line):
            self._underline(end)
        elif _TABLE.match(line):
            self.begin(start, end, "table")
        elif _ATX.match(line):
            self.begin(start, end, "heading")
            self.emit()
        elif self._opens_code(line, indented):
            self.begin(start, end, "code")
        else:
            self._prose(line, start, end)

    def _prose(self, line: str, start: int, end: int) -> None:
        if (item := _ITEM.match(line)) is not None:
            self.begin(start + item.end(), end, "item")
        elif self.start < 0 and cells(line):
            self.begin(start, end, "row")
            self.emit()
        elif label(line) and (self.start < 0 or label(self.text[self.start : self.end])):
            self.begin(start, end, "item")
        elif self.start >= 0 and self.kind in ("prose", "item"):
            self.end = end
        else:
            self.begin(start, end, "prose")

    def _fenced(self, line: str, start: int, end: int) -> bool:
        mark = _FENCE.match(line)
        if self.fence:
            self.end = end
            if mark and mark.group(1).startswith(self.fence) and not line.strip().strip("`~"):
                self.fence = ""
                self.emit()
            return True
        if mark:
            self.begin(start, end, "code")
            self.fence = mark.group(1)
            return True
        return False

    def _underline(self, end: int) -> None:
        single = self.start >= 0 and "\n" not in self.text[self.start : self.end].strip()
        if single and self.kind == "prose":
            self.kind = "heading"
        self.emit()

    def _opens_code(self, line: str, indented: bool) -> bool:
        if self.start >= 0 and self.kind in ("prose", "item"):
            return line.lstrip().startswith(">>> ")
        if line.lstrip().startswith(">>> "):
            return True
        return indented and (self.literal or (line.startswith(("    ", "\t")) and bool(_CODE.search(line))))


def _blocks(text: str) -> list[tuple[int, int, Kind]]:
    state = _Blocks(text, [])
    for start, end in _lines(text):
        state.line(start, end)
    state.emit()
    return state.spans


def _ends(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    first = start
    for mark in _END.finditer(text, start, end):
        if mark.end() >= end or _is_end(text, mark, first, end):
            yield first, mark.end()
            first = mark.end()
    if first < end:
        yield first, end


def _is_end(text: str, mark: re.Match[str], first: int, end: int) -> bool:
    if mark.group()[0] in "。！？｡؟।॥":
        return True
    opener = _OPENER.match(text, mark.end(), end)
    after = text[opener.end() : opener.end() + 1] if opener else ""
    if after.islower():
        return False
    if mark.group()[0] != ".":
        return True
    word = text[max(first, mark.start() - 24) : mark.start()].split()
    last = word[-1].lstrip("(\"'“‘[").lower() if word else ""
    initial = len(last) == 1 and last.isalpha() and word[-1].lstrip("(\"'“‘[").isupper()
    return not (last in _ABBREVIATIONS or initial)


def _bounded(text: str, start: int, end: int, kind: Kind, limit: int) -> Iterator[Sentence]:
    while True:
        while start < end and text[start].isspace():
            start += 1
        stop = end
        while stop > start and text[stop - 1].isspace():
            stop -= 1
        if start >= stop:
            return
        cut = stop
        if stop - start > limit:
            mark = {"code": "\n", "row": "; "}.get(kind, " ")
            cut = text.rfind(mark, start + limit // 2, start + limit)
            cut = start + limit if cut < 0 else cut
        yield Sentence(text[start:cut].rstrip(), start, start + len(text[start:cut].rstrip()), kind)
        start = cut
