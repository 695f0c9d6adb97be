"""CSV and TSV: the dialect is found in the file, and the text has one line for each line of the file.

A quoted cell may go over several lines. Its row stands on the first of them, and blank lines keep the count,
so a line of the text has the number of its line in the file.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.plain import decode, stem
from chains.retrieval.parsers.tables import Row, render

# csv's own limit of 131,072 characters would refuse a long cell. The size of the file is the limit here.
_CELL_CHARS = 64 * 1024 * 1024
_SAMPLE_CHARS = 65_536
_DELIMITERS = ",;\t|"
_SEP = re.compile(r"\s*\"?sep=(.)\"?\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a delimited file is written. `delimiter` is "" if each line is one cell of prose.

    `skipped` is 1 if the first line only names the delimiter (`sep=;`).
    """

    delimiter: str
    escape: str | None = None
    skipped: int = 0
    spaced: bool = False


def parse_csv(name: str, data: bytes) -> ParsedDocument:
    """Parse CSV or TSV: one line per row, `column: value`; delimiter, header and preamble are detected."""
    text = decode(name, data)
    builder = DocumentBuilder(name, "csv")
    at = 1
    count = 0
    for line in render(_rows(text, dialect_of(text, name))):
        builder.add("\n" * (line.number - at) + line.text)
        at = line.number + 1
        count += 1
    return builder.document(stem(name), {"rows": count})


def dialect_of(text: str, name: str = "") -> Dialect:
    """Return the dialect that the first lines of `text` are written in.

    The delimiter is the one that cuts most lines into equally many cells. A text whose commas are followed by
    spaces and that are not in its first line is prose.
    """
    sample = text[:_SAMPLE_CHARS]
    first, _, rest = sample.partition("\n")
    if match := _SEP.match(first):
        return Dialect(match[1], _escape(rest), skipped=1)
    best, score = Dialect(""), 0.0
    for mark in _DELIMITERS:
        found = _score(sample, mark, _escape(sample))
        if mark == "\t" and PurePath(name).suffix.lower() in (".tsv", ".tab") and found:
            return Dialect(mark, _escape(sample))
        if found > score:
            best, score = Dialect(mark, _escape(sample), spaced=_spaced(sample, mark)), found
    return best


def records(text: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the number of the line on which it starts; blank lines are left out."""
    csv.field_size_limit(_CELL_CHARS)  # for the whole process, which is the parsers' child
    if not dialect.delimiter:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, [_unquoted(line)]
        return
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        escapechar=dialect.escape,
        skipinitialspace=dialect.spaced,
    )
    start = 1
    for cells in reader:
        if start > dialect.skipped and any(cell.strip() for cell in cells):
            yield start, cells
        start = reader.line_num + 1


def _rows(text: str, dialect: Dialect) -> Iterator[Row]:
    for number, cells in records(text, dialect):
        yield Row(number, [" ".join(cell.split()) for cell in cells])


def _score(sample: str, mark: str, escape: str | None) -> float:
    """Return the share of records that `mark` cuts into the usual number of cells, from 0 to 1 and a bit."""
    if mark not in sample:
        return 0.0
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=mark, escapechar=escape)
    try:
        widths = [len(cells) for cells in reader if any(cells)]
    except csv.Error:
        return 0.0
    usual, lines = Counter(widths).most_common(1)[0]
    if usual == 1:
        # A preamble of many lines above a short table.
        usual, lines = (
            Counter(width for width in widths if width > 1).most_common(1)[0] if max(widths) > 1 else (1, 0)
        )
        if usual < 3 or lines < 2:
            return 0.0
    if _spaced(sample, mark) and widths[0] != usual:
        return 0.0
    return lines / len(widths) + min(usual, 20) / 1000


def _spaced(sample: str, mark: str) -> bool:
    """Return whether a space follows the mark more often than not, as in prose."""
    return mark != "\t" and 2 * len(re.findall(re.escape(mark) + r"[ ]", sample)) > sample.count(mark)


def _escape(sample: str) -> str | None:
    return "\\" if '\\"' in sample and '""' not in sample else None


def _unquoted(line: str) -> str:
    line = line.strip()
    if len(line) > 1 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"')
    return line
