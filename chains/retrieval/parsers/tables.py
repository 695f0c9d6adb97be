"""Tables as people lay them out: which row names the columns, and each row as a line that makes sense alone.

`render` takes the rows of a grid (a sheet, a CSV file, a table of a document) and yields its lines. Rows are
grouped into regions that blank rows separate. A region is a form (`label: value`), a column of prose, loose
lines, or a table, whose rows are written as `column: value; …`. Titles above a table are lines of their own.
A row is taken for the header if its cells name what stands below them: they are texts over numbers, words
that head columns in office documents, set in bold, or marked as a header by the file.

Only the first rows of a region are looked at, so a table of any length is rendered row by row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Literal, NamedTuple

from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.vocabulary import names_column

# Rows of a region that decide about its layout.
SAMPLE = 60
# A name of a column is a label. A longer first cell is data.
_LABEL_CHARS = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a grid: its number in the file (from 1), its cells, and what the file says about them.

    `spans` has the number of columns of each merged cell by its first column; the cells that it covers repeat
    its text. `header` is set if the file marks the row as a header, and `bold` if all its cells are bold.
    `note` follows the line of the row. A `hidden` row has no cells and does not end the table around it.
    """

    number: int
    cells: Sequence[str]
    spans: dict[int, int] = field(default_factory=dict)
    header: bool = False
    bold: bool = False
    note: str = ""
    hidden: bool = False

    def filled(self) -> list[int]:
        """Return the columns that have a text, without those that a merged cell covers."""
        covered = {at for first, width in self.spans.items() for at in range(first + 1, first + width)}
        return [at for at, cell in enumerate(self.cells) if cell and at not in covered]

    def part(self, first: int, last: int) -> Row:
        """Return the columns from `first` to before `last`."""
        spans = {at - first: width for at, width in self.spans.items() if first <= at < last}
        return Row(self.number, self.cells[first:last], spans, self.header, self.bold, self.note)

    def line(self, text: str) -> Line:
        """Return a line that says `text`, and the row's note."""
        return Line(self.number, f"{text} {self.note}" if self.note else text)


class Line(NamedTuple):
    """A line of text and the number of the row that it comes from."""

    number: int
    text: str


def render(rows: Iterable[Row]) -> Iterator[Line]:
    """Yield the lines of a grid from top to bottom; two tables side by side follow each other.

    >>> rows = [Row(1, ["Orders"]), Row(3, ["Customer", "Crates"]), Row(4, ["Ines Rao", "18"])]
    >>> [line.text for line in render(rows)]
    ['Orders', 'Customer: Ines Rao; Crates: 18']
    """
    header: _Header | None = None
    pending = iter(rows)
    first = _next_filled(pending)
    while first is not None:
        region = _Region(first, pending)
        sample = list(islice(region, SAMPLE))
        halves = _side_by_side(sample)
        if len(halves) > 1:
            whole = [*sample, *region]
            for start, end in halves:
                parts = (part for row in whole if any((part := row.part(start, end)).cells))
                yield from _region(list(islice(parts, SAMPLE)), parts, None)[1]
            header = None
        else:
            header, lines = _region(sample, region, header)
            yield from lines
        first = region.following or _next_filled(pending)


def add_table(builder: DocumentBuilder, rows: Iterable[Sequence[str] | Row]) -> None:
    """Add a table of a document, one line a row."""
    numbered = (
        row if isinstance(row, Row) else Row(number, [" ".join(cell.split()) for cell in row])
        for number, row in enumerate(rows, start=1)
    )
    found = False
    for line in render(numbered):
        builder.add(line.text)
        found = True
    if found:
        builder.add("\n", "")


def row_text(header: Sequence[str], row: Sequence[str]) -> str:
    """Return one row as `column: value; …` without its empty cells, or `value | value` without names.

    >>> row_text(["Name", "", "City"], ["Uma", "52", "Hull"])
    'Name: Uma; 52; City: Hull'
    """
    names = [*header, *[""] * (len(row) - len(header))]
    cells = [(name.rstrip(" :"), value) for name, value in zip(names, row, strict=False) if value]
    mark = "; " if any(name for name, _ in cells) else " | "
    return mark.join(f"{name}: {value}" if name else value for name, value in cells)


def _next_filled(rows: Iterator[Row]) -> Row | None:
    return next((row for row in rows if any(row.cells)), None)


class _Region:
    """The rows up to the next blank one. `following` is the first row of the next region, if it was read."""

    def __init__(self, first: Row, rows: Iterator[Row]) -> None:
        self._rows = chain((first,), rows)
        self._last = first.number - 1
        self._ended = False
        self.following: Row | None = None

    def __iter__(self) -> _Region:
        return self

    def __next__(self) -> Row:
        row = None if self._ended else next(self._rows, None)
        while row is not None and row.hidden and row.number == self._last + 1:
            self._last = row.number
            row = next(self._rows, None)
        if row is None or not any(row.cells):
            self._ended = True
            raise StopIteration
        if row.number > self._last + 1:
            self._ended, self.following = True, row
            raise StopIteration
        self._last = row.number
        return row


# What a cell is.

Kind = Literal["", "text", "code", "number"]
_NUMBER = re.compile(
    r"[+\-\u2212(]?\s?(?:[A-Z]{2,3}\s|[^\W\d_]?[$€£¥₹]\s?)?[+\-\u2212]?\d[\d.,'\u2019\u00a0\u202f ]*"
    r"(?:[%‰)]|\s?[$€£¥₹]|\s?[A-Z]{2,3}|\s?[^\W\d_]{1,12}\.?|e[+-]?\d+)?"
    r"|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ,]+\d{1,2}:\d{2}.*)?|\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp][Mm])?"
    r"|\d{1,2}\.? [^\W\d_]{3,9}\.?,? \d{2,4}|[^\W\d_]{3,9}\.? \d{1,2}, \d{4}",
    re.IGNORECASE,
)


def kind_of_cell(text: str) -> Kind:
    """Return what a cell holds: a number (also an amount, date or time), a code with digits, or text."""
    if not text:
        return ""
    if len(text) <= 40 and _NUMBER.fullmatch(text):
        return "number"
    return "code" if len(text) <= 40 and any(char.isdigit() for char in text) else "text"


def _shape(text: str) -> str:
    """Return the outline of a short text: `Berta Quill` gives "Aa Aa", `T-310` gives "A-9"."""
    found = []
    for word in text.split()[:6]:
        marks = ["A" if c.isupper() else "9" if c.isdigit() else "a" if c.isalpha() else c for c in word]
        found.append("".join(c for at, c in enumerate(marks) if at == 0 or c != marks[at - 1]))
    return " ".join(found)


# The layout of a region.


@dataclass(frozen=True, slots=True)
class _Header:
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]  # what most cells below each name are

    @property
    def columns(self) -> set[int]:
        return {at for at, name in enumerate(self.names) if name}

    def fits(self, rows: Sequence[Row]) -> bool:
        """Return whether rows without a header of their own continue the table under this one."""
        kinds = _column_kinds(rows, len(self.names))
        filled = {at for row in rows for at in row.filled()}
        alike = [at for at, kind in enumerate(kinds) if kind and self.kinds[at] == kind]
        return len(filled) > 1 and filled <= self.columns and 2 * len(alike) > len(filled)


def _region(
    sample: list[Row], rest: Iterable[Row], before: _Header | None
) -> tuple[_Header | None, Iterator[Line]]:
    """Return the header of a region, if it has one, and its lines."""
    width = _width(sample)
    if width <= 1:
        return before, _loose(chain(sample, rest))
    top = _top(sample, width)
    loose, body = sample[:top], sample[top:]
    height = _header_rows(body)
    if height:
        header = _Header(_names(body[:height]), _column_kinds(body[height:], len(body[0].cells)))
        return header, chain(_loose(loose), _table(header, chain(body[height:], rest)))
    if before is not None and before.fits(body):
        return before, chain(_loose(loose), _table(before, chain(body, rest)))
    if _is_form(body):
        return None, _loose(chain(sample, rest))
    nameless = _Header((), ())
    return None, chain(_loose(loose), _table(nameless, chain(body, rest)))


def _width(rows: Sequence[Row]) -> int:
    """Return the number of columns that are filled in several rows, or in the only one."""
    used = Counter(at for row in rows for at in row.filled())
    least = 2 if len(rows) > 3 else 1
    return sum(1 for count in used.values() if count >= least) or len(used)


def _top(rows: Sequence[Row], width: int) -> int:
    """Return how many rows above the table are titles or a preamble: too few cells for a row of it."""
    counts = [len(row.filled()) for row in rows]
    usual = Counter(count for count in counts if count > 1).most_common(1)
    least = 2 if width == 2 else max(2, (usual[0][0] * 3 + 4) // 5) if usual else 2
    # A header may have fewer cells than the rows have, but not a single one.
    top = next((at for at, count in enumerate(counts) if count >= least), 0)
    if width > 2 and top and counts[top - 1] > 1 and _is_header_over(rows[top - 1], rows[top:]):
        top -= 1
    return top


def _is_header_over(row: Row, below: Sequence[Row]) -> bool:
    """Return whether a row with merged cells, such as one of years, groups the columns below it."""
    numbers = [row.cells[at] for at in row.filled() if kind_of_cell(row.cells[at]) == "number"]
    return len(row.spans) > 0 and len(below) > 1 and (not numbers or _is_series(numbers))


def _column_kinds(rows: Sequence[Row], width: int) -> tuple[Kind, ...]:
    """Return the kind that at least six of ten filled cells of each column have, or ""."""
    found: list[Kind] = []
    for at in range(width):
        kinds = Counter(kind_of_cell(row.cells[at]) for row in rows if at < len(row.cells) and row.cells[at])
        numbers = kinds["number"]
        if kinds["code"] and numbers + kinds["code"] >= 0.6 * kinds.total() and numbers < 0.6 * kinds.total():
            found.append("code")
            continue
        common = kinds.most_common(1)
        found.append(common[0][0] if common and common[0][1] >= 0.6 * kinds.total() else "")
    return tuple(found)


def _header_rows(rows: Sequence[Row]) -> int:
    """Return how many of the first rows name the columns: none, one, or two if the first one has groups."""
    if len(rows) < 2 or not _names_columns(rows[0], rows[1:]):
        return 0
    first, second = rows[0], rows[1]
    wide = [width for width in first.spans.values() if 1 < width < len(first.cells)]
    if len(rows) > 2 and wide and not any(kind_of_cell(c) == "number" for c in second.cells if c):
        return 2
    return 1


def _names_columns(row: Row, below: Sequence[Row]) -> bool:
    at_hand = row.filled()
    cells = [row.cells[at] for at in at_hand]
    if not cells or any(len(cell) > _LABEL_CHARS for cell in cells) or cells[0].endswith(":"):
        return False
    if row.header:
        return True
    kinds = {at: kind_of_cell(row.cells[at]) for at in at_hand}
    numbers = [row.cells[at] for at in at_hand if kinds[at] == "number"]
    if numbers and not (_is_series(numbers) and len(numbers) < len(cells) + (not row.cells[0])):
        return False
    if row.bold and not all(other.bold for other in below):
        return True
    width = len({at for one in (row, *below) for at in one.filled()})
    named = sum(map(names_column, cells))
    below_kinds = _column_kinds(below, len(row.cells))
    over = [
        at
        for at in at_hand
        if (kinds[at] == "text" and below_kinds[at] in ("number", "code"))
        or (kinds[at] == "code" and below_kinds[at] == "number")
    ]
    if width == 2:
        return _names_two(row, below, over)
    if numbers or over or 2 * named >= len(cells):
        return True
    return not _alike(row, below) and len(cells) > 1


def _names_two(row: Row, below: Sequence[Row], over: list[int]) -> bool:
    """Decide for two columns, which may as well be a form.

    If a header is taken for a line of a form, the other lines stay right. If a line of a form is taken for
    the header, all others are wrong.
    """
    last = row.filled()[-1]
    if names_column(row.cells[last]):
        return True
    labels = [one.cells[one.filled()[0]] for one in below if one.filled()]
    form = sum(names_column(label) or label.endswith(":") for label in labels)
    if 2 * form >= len(labels) or (len(set(labels)) < len(labels) > 2 and not over):
        return False
    return bool(over) and len(row.cells[last].split()) <= 3


def _alike(row: Row, below: Sequence[Row]) -> bool:
    """Return whether a row of texts looks like those below it, as in a table without a header."""
    telling = False
    for at in row.filled():
        shape = _shape(row.cells[at])
        shapes = [_shape(other.cells[at]) for other in below if at < len(other.cells) and other.cells[at]]
        if not shapes or 2 * shapes.count(shape) < len(shapes):
            return False
        telling = telling or shape not in ("A", "Aa", "a")
    return telling


def _is_series(cells: Sequence[str]) -> bool:
    """Return whether numbers head columns: years, weeks, days, that rise evenly, or dates in order."""
    found = [re.findall(r"\d+", cell) for cell in cells]
    if len({_shape(cell) for cell in cells}) != 1 or len(cells) < 2:
        return False
    numbers = [tuple(map(int, parts)) for parts in found]
    if all(len(parts) == 1 for parts in numbers):
        steps = {b[0] - a[0] for a, b in pairwise(numbers)}
        return len(steps) == 1 and steps.pop() in (1, -1, 5, 10)
    return len(set(numbers)) == len(numbers)


def _names(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the name of each column; groups stand before the names below them."""
    width = max(len(row.cells) for row in rows)
    columns = ([row.cells[at] for row in rows if at < len(row.cells)] for at in range(width))
    return tuple(" ".join(dict.fromkeys(filter(None, names))) for names in columns)


def _is_form(rows: Sequence[Row]) -> bool:
    """Return whether rows without a header are labels and values, two by two."""
    pairs = labels = 0
    for row in rows:
        filled = row.filled()
        pairs += len(filled) in (1, 2)
        labels += bool(filled) and row.cells[filled[0]].endswith(":")
    if 2 * labels >= len(rows) and labels:
        return True
    firsts = [row.cells[row.filled()[0]] for row in rows if row.filled()]
    short = all(len(first) <= _LABEL_CHARS and kind_of_cell(first) != "number" for first in firsts)
    columns = {at for row in rows for at in row.filled()}
    return pairs == len(rows) and len(columns) <= 2 and short and len(set(firsts)) == len(firsts)


# Lines.


def _loose(rows: Iterable[Row]) -> Iterator[Line]:
    """Yield rows outside a table: a text, or labels with their values."""
    for row in rows:
        cells = [row.cells[at] for at in row.filled()]
        labels = [cell.endswith(":") for cell in cells]
        if len(cells) == 2 and len(cells[0]) <= _LABEL_CHARS and not labels[1]:
            yield row.line(f"{cells[0].rstrip(' :')}: {cells[1]}")
        elif any(labels) and len(cells) > 2:
            parts: list[str] = []
            for at, cell in enumerate(cells):
                joins = at and labels[at - 1] and not labels[at]
                parts.append(f"{parts.pop()} {cell}" if joins else cell)
            yield row.line("; ".join(parts))
        elif cells:
            yield row.line(" | ".join(cells))


def _table(header: _Header, rows: Iterable[Row]) -> Iterator[Line]:
    names = header.names
    for row in rows:
        filled = row.filled()
        if not filled or (names and _repeats(names, row, filled)):
            continue
        first = row.cells[filled[0]]
        kind = kind_of_cell(first)
        alone = len(filled) == 1 and filled[0] == 0 and (0 in row.spans or len(header.columns) > 2)
        if names and alone and kind != "number":
            yield row.line(first)  # a group's name among the rows
        elif names and kind in ("text", "code") and header.kinds[filled[0] : filled[0] + 1] == ("number",):
            yield row.line(_total(names, row, filled))
        else:
            yield row.line(_pairs(names, row, filled))


def _repeats(names: Sequence[str], row: Row, filled: Sequence[int]) -> bool:
    """Return whether a row is the header again, as on each page of a printed table."""
    return len(filled) > 1 and all(at < len(names) and row.cells[at] == names[at] for at in filled)


def _pairs(names: Sequence[str], row: Row, filled: Sequence[int]) -> str:
    last = filled[-1] + 1
    kept = set(filled)
    return row_text(names, [row.cells[at] if at in kept else "" for at in range(last)])


def _total(names: Sequence[str], row: Row, filled: Sequence[int]) -> str:
    """Return a row whose first cell is not of its column: a total, or a label with its value."""
    first = filled[0]
    if len(filled) == 2 and len(names) > 2 and (first or filled[1] == 1):
        return f"{row.cells[first].rstrip(' :')}: {row.cells[filled[1]]}"
    return _pairs([*names[:first], "", *names[first + 1 :]], row, filled)


# Tables side by side.


def _side_by_side(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the columns of each of several tables that stand side by side, or those of the only one.

    An empty column alone may be there for its looks. Each part must have a header over numbers, and begin
    with a column of labels.
    """
    width = max(len(row.cells) for row in rows)
    used = {at for row in rows for at in row.filled()} | {
        at for row in rows for first, n in row.spans.items() if n < width for at in range(first, first + n)
    }
    parts: list[tuple[int, int]] = []
    at = 0
    while at < width:
        end = at
        while end < width and end in used:
            end += 1
        if end > at:
            parts.append((at, end))
        at = end + 1
    if len(parts) < 2 or not all(_stands_alone([row.part(*part) for row in rows]) for part in parts):
        return [(0, width)]
    return parts


def _stands_alone(rows: Sequence[Row]) -> bool:
    filled = [row for row in rows if any(row.cells)]
    if len(filled) < 2 or _width(filled) < 2:
        return False
    body = filled[_top(filled, _width(filled)) :]
    height = _header_rows(body)
    if not height:
        return False
    first = [row.cells[0] for row in body[height:] if row.cells[0]]
    kinds = _column_kinds(body[height:], len(body[0].cells))
    return (
        len(first) == len(body) - height
        and len(set(first)) == len(first)
        and kinds[0] in ("text", "code")
        and any(kind in ("number", "code") for kind in kinds[1:])
    )
