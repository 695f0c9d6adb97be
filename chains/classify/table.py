"""A table, classified row by row in a run that can be stopped and resumed.

The output is the input with three columns more: `label`, `confidence` and `labels`, or `label_2` and so on
if it has columns of these names. Every record keeps its characters, its quotes, the delimiter, the encoding
and the line ends; cells beyond the header and columns of one name stay. Of a workbook the first visible sheet
is read, and the output is CSV. Rows are appended and flushed batch by batch. A run that finds part of its
output checks that these rows belong to the input, and continues after the last complete one.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any

from langchain_core.runnables import Runnable

from chains.classify.result import Classification
from chains.errors import InputError, TableError
from chains.retrieval.errors import SourceError
from chains.retrieval.parsers import kind_of
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.delimited import dialect_of
from chains.retrieval.parsers.spreadsheets import first_sheet

Progress = Callable[[int, int], None]
"""Called with the number of rows done and of all rows."""

ADDED = ("label", "confidence", "labels")


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """Number of all `rows`, of those done by an earlier run (`resumed`) and without a text (`skipped`).

    `columns` are the names of the added columns.
    """

    rows: int
    resumed: int
    skipped: int
    columns: tuple[str, ...] = ADDED


def classify_table(
    chain: Runnable[str, Classification],
    source: Path,
    target: Path,
    *,
    column: str,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> TableReport:
    """Classify a column of the table `source` into the CSV file `target`, resuming an earlier run.

    >>> import tempfile
    >>> from chains.classify import classify_chain
    >>> from chains.text.vectors import WordVectors
    >>> folder = Path(tempfile.mkdtemp())
    >>> with (folder / "mails.csv").open("w") as file:
    ...     print("text", "My card was stolen", sep=os.linesep, file=file)
    >>> chain = classify_chain(None, ["a stolen card", "a refund"], embeddings=WordVectors())
    >>> classify_table(chain, folder / "mails.csv", folder / "sorted.csv", column="text")
    TableReport(rows=1, resumed=0, skipped=0, columns=('label', 'confidence', 'labels'))

    Args:
        chain: Made by `classify_chain`.
        source: A CSV file of any delimiter and encoding, or a workbook, with a header.
        target: The output; must be another file than `source`.
        column: Name of the column that contains the text.
        batch_size: Number of rows that are classified and then written at once.
        progress: Called after each batch.

    Raises:
        TableError: There is no such column or no row, a file is not CSV, or the output belongs to another
            input or cannot be opened.
    """
    table = _read(source, column)
    if not table.records:
        raise TableError(f"expected rows under the header of {str(source)!r}, found none: add rows")
    if target.exists() and target.samefile(source):
        raise TableError(
            f"expected another file than the input, found {str(target)!r} for both: choose another target"
        )
    done = _done(table, target)
    skipped = 0
    with _open_output(target) as out:
        if out.tell() == 0:
            out.write(table.bytes_of(table.head(), first=True))
        at = done
        rows = iter(table.records[done:])
        while batch := list(islice(rows, batch_size)):
            lines, without = _classified(chain, batch, table)
            skipped += without
            out.write(table.bytes_of("".join(lines)))
            out.flush()
            os.fsync(out.fileno())
            at += len(batch)
            if progress is not None:
                progress(at, len(table.records))
    return TableReport(rows=len(table.records), resumed=done, skipped=skipped, columns=table.added)


def read_examples_table(source: Path, *, text: str = "text", label: str = "label") -> list[tuple[str, str]]:
    """Return the labelled examples in a CSV file with the columns `text` and `label`.

    Raises:
        TableError: A column is missing, or there are no rows.
    """
    table = _read(source, text, label)
    places = table.place, table.names.index(label)
    rows = [[cells[at] if at < len(cells) else "" for at in places] for _, cells in table.records]
    found = [(given, name) for given, name in rows if given.strip()]
    if not found:
        raise TableError(f"expected labelled rows in {str(source)!r}, found none: add rows of text and label")
    return found


@dataclass(frozen=True, kw_only=True)
class _CsvTable:
    """A table as it stands in its file: each record with its own characters, and its cells.

    `start` is what precedes the first record, the header included; `place` is the column with the text.
    """

    start: str
    names: list[str]
    place: int
    records: list[tuple[str, list[str]]]
    delimiter: str
    newline: str
    encoding: str
    mark: bytes

    @cached_property
    def width(self) -> int:
        """The most cells that a record has, so that the added columns stand below their names."""
        return max(len(self.names), *(len(cells) for _, cells in self.records))

    @cached_property
    def added(self) -> tuple[str, ...]:
        """The names of the added columns, other ones than the table has."""
        taken = {name.strip().casefold() for name in self.names}
        return tuple(
            next(f"{name}{n}" for n in ("", *map("_{}".format, range(2, 1000))) if f"{name}{n}" not in taken)
            for name in ADDED
        )

    def head(self) -> str:
        """Return what the output begins with."""
        return self.line(self.start, len(self.names), self.added)

    def line(self, raw: str, width: int, more: Sequence[str]) -> str:
        """Return a record with the cells `more` behind the last column of the table."""
        target = io.StringIO()
        csv.writer(target, delimiter=self.delimiter, lineterminator="").writerow(more)
        gap = self.delimiter * (self.width - width + 1)
        return f"{raw}{gap}{target.getvalue()}{self.newline}"

    def bytes_of(self, text: str, *, first: bool = False) -> bytes:
        """Return text in the encoding of the table, after its byte order mark if it is the first."""
        try:
            return (self.mark if first else b"") + text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise TableError(
                f"expected labels in the characters of the table's encoding {self.encoding}, found "
                f"{error.object[error.start]!r}: save the table as UTF-8"
            ) from error


def _classified(
    chain: Runnable[str, Classification], batch: list[tuple[str, list[str]]], table: _CsvTable
) -> tuple[list[str], int]:
    """Return the lines of a batch with their labels, and how many have no text."""
    texts = [cells[table.place] if table.place < len(cells) else "" for _, cells in batch]
    lines, skipped = [], 0
    results: list[Any] = chain.batch(texts, return_exceptions=True)
    for (raw, cells), found in zip(batch, results, strict=True):
        if isinstance(found, InputError):
            # The text is empty or not a text; the row keeps its place, without a label.
            found, skipped = Classification(None), skipped + 1
        elif isinstance(found, Exception):
            raise found
        more = [found.label or "", f"{found.confidence:.4f}" if found.scores else "", "|".join(found.labels)]
        lines.append(table.line(raw, len(cells), more))
    return lines, skipped


def _open_output(target: Path) -> IO[bytes]:
    try:
        return target.open("ab")
    except OSError as error:
        raise TableError(
            f"expected an output that can be written at {str(target)!r}, found {error.strerror!r}: choose "
            "another target"
        ) from error


# Files.

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CODE_PAGES = (
    "cp1252 cp1250 cp1251 cp932 gb18030 big5 cp949 cp1253 cp1254 cp1255 cp1256 cp1257 koi8_r cp850 cp852 "
    "cp866 latin-1"
).split()
# Rows above the header, such as the preamble of a bank's export.
_MOST_ABOVE = 50


def _read(source: Path, *columns: str) -> _CsvTable:
    """Return a table whose header has `columns`, the first of them with the text; raise TableError."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise TableError(
            f"expected a CSV file, found {str(source)!r} ({error.strerror}): check the path"
        ) from error
    mark, encoding, delimiter, newline = b"", "utf-8", ",", "\r\n"
    if kind_of(str(source), data) in ("xlsx", "xls"):
        records = _sheet(source, data)
    else:
        text, encoding, mark = _decoded(source, data)
        dialect = dialect_of(text.replace("\r\n", "\n"), source.name)
        delimiter = dialect.delimiter or ","
        newline = next((end for end in ("\r\n", "\n", "\r") if end in text), "\r\n")
        records = list(_records(text, delimiter, dialect.escape, dialect.spaced))
    for at, (_, names) in enumerate(records[:_MOST_ABOVE]):
        if all(column in names for column in columns):
            start = newline.join(raw for raw, _ in records[: at + 1])
            return _CsvTable(
                start=start, names=names, place=names.index(columns[0]), records=records[at + 1 :],
                delimiter=delimiter, newline=newline, encoding=encoding, mark=mark,
            )  # fmt: skip
    names = records[0][1] if records else []
    missing = next((column for column in columns if column not in names), columns[0])
    raise TableError(f"expected a column {missing!r} in {str(source)!r}, found {names!r}: name one of them")


def _records(text: str, delimiter: str, escape: str | None, spaced: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield each record as it is written, without its line end, and its cells.

    Blank lines belong to the next record.
    """
    csv.field_size_limit(2**31 - 1)  # csv refuses fields of more than 131,072 characters by default
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    for cells in csv.reader(lines(), delimiter=delimiter, escapechar=escape, skipinitialspace=spaced):
        if cells:
            yield re.sub(r"(?:\r\n|\n|\r)\Z", "", "".join(taken)), cells
            taken.clear()


def _decoded(source: Path, data: bytes) -> tuple[str, str, bytes]:
    """Return a file's text, its encoding and its byte order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding, mark
    try:
        return data.decode("utf-8"), "utf-8", b""
    except UnicodeDecodeError:
        pass
    try:
        read = decode(str(source), data)
    except SourceError as error:
        raise TableError(
            f"expected a table of text, found {str(source)!r} ({error}): save it as UTF-8 CSV"
        ) from error
    for encoding in _CODE_PAGES:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.replace("\r\n", "\n").replace("\r", "\n") == read:
            return text, encoding, b""
    return read, "utf-8", b""


def _sheet(source: Path, data: bytes) -> list[tuple[str, list[str]]]:
    """Return the rows of a workbook's first visible sheet as records of a CSV file."""
    try:
        rows = first_sheet(str(source), data)
    except SourceError as error:
        raise TableError(f"expected a workbook, found {str(source)!r} ({error}): save it anew") from error
    records = []
    for cells in rows:
        target = io.StringIO()
        csv.writer(target, lineterminator="").writerow(cells)
        records.append((target.getvalue(), cells))
    return records


def _done(table: _CsvTable, target: Path) -> int:
    """Return how many complete rows `target` has, and remove the last one, which may be cut off."""
    if not target.exists() or target.stat().st_size == 0:
        return 0
    data = target.read_bytes()
    text = data.removeprefix(table.mark).decode(table.encoding, "replace")
    head = table.head()
    if not text.startswith(head):
        raise TableError(
            f"expected {str(target)!r} to begin with the columns {[*table.names, *table.added]!r}, found "
            f"{text[: len(head)]!r}: choose another target, or remove that file"
        )
    written = list(_records(text[len(head) :], table.delimiter, None, False))
    for number, ((raw, _), (given, _)) in enumerate(zip(written, table.records, strict=False), start=1):
        if not raw.startswith(given) and number != len(written):
            raise TableError(
                f"expected row {number} of {str(target)!r} to be the input's, found {raw!r}: "
                "choose another target"
            )
    # The last row is written again, because one cannot see whether its last field is complete.
    kept = head + "".join(raw + table.newline for raw, _ in written[:-1])
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as out:
        out.write(table.bytes_of(kept, first=True))
        out.flush()
        os.fsync(out.fileno())
    partial.replace(target)
    return max(0, len(written) - 1)
