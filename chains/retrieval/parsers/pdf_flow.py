"""Makes running text of the pages of a PDF: paragraphs, headings and tables, without running headers.

Running headers, taken out before, are said once, at the end. Paragraphs go on over columns and pages. A
sentence over two pages counts to the page that holds more of it. Headings are those of the outline or,
without one, lines in larger or bolder letters.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from chains.retrieval.document import Block, LineBox
from chains.retrieval.parsers.pdf_furniture import PAGE_NUMBER
from chains.retrieval.parsers.pdf_layout import ITEM, Item, TextLine, around
from chains.retrieval.parsers.pdf_page import PageBox, TableBlock
from chains.retrieval.parsers.pdf_words import LineJoiner, without_ligatures
from chains.retrieval.parsers.tables import Row, render

_ENDED = re.compile(r"[.!?:;\u3002\uff01\uff1f\u061f\u06d4\u0964][\"'\u201d\u2019\u00bb)\]]*$")
_FIELD = re.compile(r"[^\W\d_][\w .'/()-]{0,38}:(?:\s|$)")
_OPEN_END = frozenset(
    "the a an to of and or in by with for from at on is was were are be been that which who as than der die "
    "das dem den des und oder in von mit zu auf ist war ein eine le la les de du des et en un une est "
    "pour par el los y del con por".split()
)
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?:\s+|$)|[\u3002\uff01\uff1f]")
_MAX_LEVEL = 6


@dataclass(slots=True)
class OutlineEntry:
    """An entry of a PDF's outline; `top` is where on the page it leads, if it says."""

    title: str
    level: int
    page: int
    top: float | None


@dataclass(slots=True)
class PrintedPage:
    """A page in reading order. `number` counts from 1; `label` is printed on it."""

    number: int
    label: str
    items: list[Item]
    comments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PrintedParagraph:
    """Lines of one paragraph, heading or table, with the pages they stand on."""

    lines: list[tuple[TextLine, int]] = field(default_factory=list)
    table: TableBlock | None = None
    page: int = 0
    level: int = 0
    label: str = ""
    plain: str = ""

    @property
    def size(self) -> float:
        """The size of its letters."""
        return self.lines[0][0].size if self.lines else 0.0

    @property
    def last(self) -> TextLine:
        """Its last line."""
        return self.lines[-1][0]


class PageFlow:
    """The text of a document's pages, with blocks and the boxes of its lines, after `build`."""

    def __init__(
        self,
        pages: Sequence[PrintedPage],
        outline: Sequence[OutlineEntry],
        furniture: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.pages = pages
        self._furniture = furniture
        self._outline = outline
        self._pieces: list[str] = []
        self._length = 0
        self._marks: list[tuple[int, str, int]] = []  # offset, heading path, page index from there on
        self._path: list[tuple[int, str]] = []
        self.boxes: list[LineBox] = []
        self.title = ""

    @property
    def text(self) -> str:
        """The text that `build` made."""
        return "".join(self._pieces)

    def build(self) -> None:
        """Make the text."""
        self._clean()
        sizes = Counter[float]()
        for line in self._lines():
            sizes[round(line.size * 2) / 2] += len(line.text)
        body = sizes.most_common(1)[0][0] if sizes else 10.0
        paragraphs = [one for page in self.pages for one in _paragraphs(page)]
        if self._outline:
            paragraphs = _with_outline(paragraphs, self._outline)
        else:
            _mark_headings(paragraphs, body, self._bold_share())
        self._take_title(paragraphs)
        join = LineJoiner(line.text for line in self._lines())
        for one in _joined(paragraphs, body):
            self._write(one, join)
        shown = self.text
        for words, number in self._furniture:
            text = without_ligatures(words)
            if text not in shown:
                self._mark(number - 1, "")
                self._add(f"{text}\n")

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks of the text, one for each page and heading."""
        found: list[Block] = []
        marks = sorted(self._marks, key=lambda mark: mark[0])
        for at, (start, heading, page) in enumerate(marks):
            start = start if found else 0
            end = marks[at + 1][0] if at + 1 < len(marks) else self._length
            if end <= start:
                continue
            printed = self.pages[page]
            if found and found[-1].heading == heading and found[-1].page == printed.number:
                found[-1] = replace(found[-1], end=end)
                continue
            place = {"label": printed.label} if printed.label != str(printed.number) else {}
            found.append(Block(start=start, end=end, heading=heading, page=printed.number, place=place))
        return tuple(found)

    def _lines(self) -> Iterator[TextLine]:
        return (item for page in self.pages for item in page.items if isinstance(item, TextLine))

    def _clean(self) -> None:
        for line in self._lines():
            line.text = without_ligatures(line.text)

    def _bold_share(self) -> float:
        letters = sum(len(line.text) for line in self._lines())
        return sum(len(line.text) for line in self._lines() if line.bold) / max(letters, 1)

    def _take_title(self, paragraphs: Sequence[PrintedParagraph]) -> None:
        """Take the largest heading of the first page for the title."""
        first = [one for one in paragraphs if one.level and one.page == 0 and one.lines]
        if first:
            best = max(first, key=lambda one: one.size)
            if best is first[0] or (best.level == 1 and best.size > 1.25 * min(one.size for one in first)):
                self.title = " ".join(line.text for line, _ in best.lines)

    # Writing

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)

    def _mark(self, page: int, heading: str | None = None) -> None:
        names = " > ".join(name for _, name in self._path) if heading is None else heading
        self._marks.append((self._length, names, page))

    def _write(self, one: PrintedParagraph, join: LineJoiner) -> None:
        if one.level or one.label:
            name = one.label or " ".join(" ".join(line.text for line, _ in one.lines).split())
            while self._path and self._path[-1][0] >= one.level:
                self._path.pop()
            self._path.append((one.level, name))
        self._mark(one.page)
        if one.table is not None:
            self._write_table(one.table, one.page)
        elif one.plain:
            self._add(f"{one.plain}\n\n")
        elif one.lines:
            self._write_lines(one.lines, join)
            self._add("\n\n")

    def _write_lines(self, lines: Sequence[tuple[TextLine, int]], join: LineJoiner) -> None:
        start = self._length
        turns: list[tuple[int, int]] = []
        for at, (line, page) in enumerate(lines):
            text, mark = line.text, ""
            if at + 1 < len(lines):
                text, mark = join(text, lines[at + 1][0].text)
            if at and page != lines[at - 1][1]:
                turns.append((self._length, page))
            self._box(line.box if not line.segments[0].place else line.segments[0].box, page, len(text))
            self._add(text + mark)
        names = self._marks[-1][1]
        if turns:
            text = self.text[start:]
            for offset, page in turns:
                self._marks.append((start + _turn(text, offset - start), names, page))

    def _box(self, box: PageBox, page: int, length: int) -> None:
        sides = (round(side, 1) for side in box)
        number = self.pages[page].number
        self.boxes.append(LineBox(self._length, self._length + length, number, *sides))

    def _write_table(self, table: TableBlock, page: int) -> None:
        rows = [
            Row(number, [without_ligatures(cell) for cell in cells], {}, header=False, bold=bold)
            for number, (cells, bold) in enumerate(zip(table.rows, table.bold, strict=True), start=1)
        ]
        for line in render(rows):
            pieces = table.pieces[line.number - 1]
            if pieces:
                self._box(around([one.box for one in pieces]), page, len(line.text))
            self._add(f"{line.text}\n")
        self._add("\n")


def _turn(text: str, offset: int) -> int:
    """Return where the text of a paragraph turns to the next page: before or after the sentence that does."""
    start, end = 0, len(text)
    for match in _SENTENCE_END.finditer(text):
        if match.end() <= offset:
            start = match.end()
        else:
            end = match.end()
            break
    return start if end - offset > offset - start else end


# Paragraphs -------------------------------------------------------------------------------------------------


def _paragraphs(page: PrintedPage) -> Iterator[PrintedParagraph]:
    at = page.number - 1
    step = _usual_step(page.items)
    open_one: PrintedParagraph | None = None
    for item in page.items:
        if isinstance(item, TableBlock):
            if open_one is not None:
                yield open_one
            open_one = None
            yield PrintedParagraph(table=item, page=at)
        elif open_one is not None and not _starts_paragraph(open_one, item, step):
            open_one.lines.append((item, at))
        else:
            if open_one is not None:
                yield open_one
            open_one = PrintedParagraph(lines=[(item, at)], page=at)
    if open_one is not None:
        yield open_one
    for comment in page.comments:
        yield PrintedParagraph(page=at, plain=comment)


def _usual_step(items: Sequence[Item]) -> float:
    """Return the usual distance from line to line, in sizes of their letters."""
    steps = [
        (b.box.top - a.box.top) / max(a.size, 1.0)
        for a, b in itertools.pairwise(items)
        if isinstance(a, TextLine) and isinstance(b, TextLine)
    ]
    steps = sorted(step for step in steps if 0.5 < step < 2.6)
    return steps[len(steps) // 3] if steps else 1.2


def _starts_paragraph(before: PrintedParagraph, line: TextLine, step: float) -> bool:
    last = before.last
    size = max(last.size, line.size)
    if (
        line.first_in_column
        or abs(line.left - last.left) > 2.5 * size
        or _is_turned(line) != _is_turned(last)
    ):
        return True
    if abs(line.size - last.size) > 0.08 * size or line.bold != last.bold:
        return abs(line.size - last.size) > 0.08 * size or not (line.text[:1].islower() or _inline(last))
    if line.box.top - last.box.top > (step + 0.35) * size or line.box.top < last.box.top - size:
        return True
    if ITEM.match(line.text) or (_FIELD.match(line.text) and _FIELD.match(last.text)):
        return True
    return _is_indented(before, line) or _is_short(last, line)


def _is_turned(line: TextLine) -> bool:
    return line.segments[0].place is not None


def _inline(line: TextLine) -> bool:
    """Whether a line that is mostly bold, or mostly not, ends within a sentence."""
    return line.box.right > line.right - 0.15 * (line.right - line.left) and not _ENDED.search(line.text)


def _is_indented(before: PrintedParagraph, line: TextLine) -> bool:
    indent, above = line.box.left - line.left, before.last.box.left - line.left
    hanging = bool(ITEM.match(before.lines[0][0].text))
    return not hanging and 0.8 * line.size < indent < 5 * line.size and above < 0.4 * line.size


def _is_short(last: TextLine, line: TextLine) -> bool:
    """Whether a line ends so early that the next begins something new."""
    wide = last.right - last.left
    if wide < 12 * last.size and not line.text[:1].islower() and not _open_ended(last.text):
        return True  # an address, or a list of names
    short = last.box.right < last.right - max(0.25 * wide, 2 * last.size)
    if not short or last.text.endswith(("-", "\u00ad", ",")):
        return False
    return bool(_ENDED.search(last.text)) or not (line.text[:1].islower() or _open_ended(last.text))


def _open_ended(text: str) -> bool:
    words = text.split()
    return bool(words) and words[-1].casefold() in _OPEN_END


def _joined(paragraphs: Sequence[PrintedParagraph], body: float) -> list[PrintedParagraph]:
    """Return paragraphs of which those that go on after a column's or page's end are one."""
    found: list[PrintedParagraph] = []
    for one in paragraphs:
        before = _last_text(found, one, body)
        if before is not None and _goes_on(before, one):
            before.lines += one.lines
        else:
            found.append(one)
    return found


def _last_text(
    found: Sequence[PrintedParagraph], one: PrintedParagraph, body: float
) -> PrintedParagraph | None:
    """Return the paragraph before, or the one before the notes at the foot of its page."""
    for before in reversed(found[-6:]):
        if before.lines and not before.level and before.size > 0.93 * one.size:
            return before
        note = before.plain or (before.lines and not before.level and before.size < 0.93 * body)
        if not note:
            return None
    return None


def _goes_on(before: PrintedParagraph, one: PrintedParagraph) -> bool:
    if not one.lines or one.level or one.label or one.table is not None:
        return False
    line, last = one.lines[0][0], before.last
    other_place = one.lines[0][1] != before.lines[-1][1] or line.box.top < last.box.top
    if not other_place or abs(line.size - last.size) > 0.06 * last.size or _ENDED.search(last.text):
        return False
    if ITEM.match(line.text) or (len(last.text.split()) < 3 and len(before.lines) == 1):
        return False
    if line.text[:1].islower() or last.text.endswith(("-", ",", "\u00ad")) or _open_ended(last.text):
        return True
    return last.box.right > last.right - 0.12 * (last.right - last.left) and len(before.lines) > 1


# Headings ---------------------------------------------------------------------------------------------------


def _mark_headings(paragraphs: Sequence[PrintedParagraph], body: float, bold_share: float) -> None:
    """Set the level of paragraphs that are headings by the size and weight of their letters."""
    found: list[tuple[PrintedParagraph, float]] = []
    for at, one in enumerate(paragraphs):
        following = paragraphs[at + 1] if at + 1 < len(paragraphs) else None
        if not one.lines or following is None:
            continue
        text = " ".join(line.text for line, _ in one.lines)
        letters = sum(map(str.isalpha, text))
        if (
            _is_turned(one.last)
            or letters < 2
            or len(text) > 160
            or len(one.lines) > 4
            or PAGE_NUMBER.fullmatch(text)
        ):
            continue
        large = one.size >= 1.12 * body and one.size > 0
        plain = not text.rstrip().endswith((".", ",", ";", ":")) and len(text.split()) <= 14
        bold = bold_share < 0.5 and all(line.bold for line, _ in one.lines) and one.size > 0.93 * body
        followed = following.table is not None or not (following.lines and following.lines[0][0].bold)
        if large or (bold and plain and followed and not ITEM.match(text[:3])):
            found.append((one, round(one.size * 2) / 2 if large else 0.0))
    sizes = sorted({size for _, size in found}, reverse=True)
    for one, size in found:
        one.level = min(sizes.index(size) + 1, _MAX_LEVEL)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _with_outline(
    paragraphs: Sequence[PrintedParagraph], outline: Sequence[OutlineEntry]
) -> list[PrintedParagraph]:
    """Return paragraphs in which those that the outline names are headings; its other entries are labels."""
    by_page: dict[int, list[PrintedParagraph]] = defaultdict(list)
    for one in paragraphs:
        by_page[one.page].append(one)
    for entry in outline:
        page = by_page[entry.page]
        wanted = _plain(entry.title)
        named = next((one for one in page if not one.level and one.lines and _names(one, wanted)), None)
        if named is not None:
            rest = _split_heading(named, wanted)
            named.level = entry.level
            if rest is not None:
                page.insert(page.index(named) + 1, rest)
            continue
        at = next((at for at, one in enumerate(page) if _top(one) >= (entry.top or 0.0) - 4), len(page))
        while at < len(page) and page[at].label:
            at += 1
        page.insert(
            at, PrintedParagraph(page=entry.page, level=entry.level, label=" ".join(entry.title.split()))
        )
    return [one for number in sorted(by_page) for one in by_page[number]]


def _top(one: PrintedParagraph) -> float:
    if one.table is not None:
        return one.table.box.top
    return one.lines[0][0].box.top if one.lines else float("inf")


def _names(one: PrintedParagraph, wanted: str) -> bool:
    text = ""
    for line, _ in one.lines[:4]:
        text += _plain(line.text)
        if text == wanted or (
            text.endswith(wanted) and re.fullmatch(r"[\divxa-z]{0,6}", text[: -len(wanted)])
        ):
            return bool(wanted)
    return False


def _split_heading(one: PrintedParagraph, wanted: str) -> PrintedParagraph | None:
    """Cut the text off a heading that stands in one paragraph with it."""
    text = ""
    for at, (line, _) in enumerate(one.lines):
        text += _plain(line.text)
        if text.endswith(wanted):
            rest = one.lines[at + 1 :]
            one.lines = one.lines[: at + 1]
            return PrintedParagraph(lines=rest, page=rest[0][1]) if rest else None
    return None
