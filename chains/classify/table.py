"""A CSV file, classified row by row in a run that can be stopped and resumed.

The output has the columns of the input, then `label`, `confidence` and `labels`. Rows are appended and
flushed batch by batch. A run that finds part of its output checks that these rows belong to the input, and
continues after the last complete one.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from langchain_core.runnables import Runnable

from chains.classify.result import Classification
from chains.errors import InputError, TableError

Progress = Callable[[int, int], None]
"""Called with the number of rows done and of all rows."""

ADDED = ("label", "confidence", "labels")


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """Number of all `rows`, of those done by an earlier run (`resumed`) and without a text (`skipped`)."""

    rows: int
    resumed: int
    skipped: int


def classify_table(
    chain: Runnable[str, Classification],
    source: Path,
    target: Path,
    *,
    column: str,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> TableReport:
    """Classify a column of the CSV file `source` into the CSV file `target`, resuming an earlier run.

    >>> import tempfile
    >>> from chains.classify import classify_chain
    >>> from chains.text.vectors import WordVectors
    >>> folder = Path(tempfile.mkdtemp())
    >>> with (folder / "mails.csv").open("w") as file:
    ...     print("text", "My card was stolen", sep=os.linesep, file=file)
    >>> chain = classify_chain(None, ["a stolen card", "a refund"], embeddings=WordVectors())
    >>> classify_table(chain, folder / "mails.csv", folder / "sorted.csv", column="text")
    TableReport(rows=1, resumed=0, skipped=0)

    Args:
        chain: Made by `classify_chain`.
        source: A CSV file in UTF-8 with a header.
        target: The output; must be another file than `source`.
        column: Name of the column that contains the text.
        batch_size: Number of rows that are classified and then written at once.
        progress: Called after each batch.

    Raises:
        TableError: There is no such column or no row, a file is not CSV, or the output belongs to another
            input or cannot be opened.
    """
    total = sum(1 for _ in _rows(source, column))
    if total == 0:
        raise TableError(f"expected rows under the header of {str(source)!r}, found none: add rows")
    if target.exists() and target.samefile(source):
        raise TableError(
            f"expected another file than the input, found {str(target)!r} for both: choose another target"
        )
    header = [*_header(source), *ADDED]
    done = _done(source, target, header, column)
    skipped = 0
    with _open_output(target) as out:
        writer = csv.writer(out)
        if out.tell() == 0:
            writer.writerow(header)
        rows = islice(_rows(source, column), done, None)
        at = done
        while batch := list(islice(rows, batch_size)):
            skipped += _write(writer, chain, batch, header, column)
            out.flush()
            os.fsync(out.fileno())
            at += len(batch)
            if progress is not None:
                progress(at, total)
    return TableReport(rows=total, resumed=done, skipped=skipped)


def read_examples_table(source: Path, *, text: str = "text", label: str = "label") -> list[tuple[str, str]]:
    """Return the labelled examples in a CSV file with the columns `text` and `label`.

    Raises:
        TableError: A column is missing, or there are no rows.
    """
    found = [(row[text], row[label]) for row in _rows(source, text, label) if row[text].strip()]
    if not found:
        raise TableError(f"expected labelled rows in {str(source)!r}, found none: add rows of text and label")
    return found


def _write(
    writer: csv.writer,  # type: ignore[valid-type]
    chain: Runnable[str, Classification],
    batch: list[dict[str, str]],
    header: list[str],
    column: str,
) -> int:
    texts = [row[column] for row in batch]
    skipped = 0
    results: list[Any] = chain.batch(texts, return_exceptions=True)
    for row, found in zip(batch, results, strict=True):
        if isinstance(found, InputError):
            # The text is empty or not a text; the row keeps its place, without a label.
            found, skipped = Classification(None), skipped + 1
        elif isinstance(found, Exception):
            raise found
        cells = {
            **row,
            "label": found.label or "",
            "confidence": f"{found.confidence:.4f}" if found.scores else "",
            "labels": "|".join(found.labels),
        }
        writer.writerow([cells[name] for name in header])  # type: ignore[attr-defined]
    return skipped


def _open_output(target: Path) -> IO[str]:
    try:
        return target.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise TableError(
            f"expected an output that can be written at {str(target)!r}, found {error.strerror!r}: choose "
            "another target"
        ) from error


def _open(path: Path) -> IO[str]:
    try:
        # The csv module refuses fields of more than 131,072 characters by default, and texts may be longer.
        csv.field_size_limit(2**31 - 1)
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise TableError(
            f"expected a CSV file, found {str(path)!r} ({error.strerror}): check the path"
        ) from error


def _header(source: Path) -> list[str]:
    with _open(source) as lines:
        return list(next(csv.reader(lines)))


def _rows(source: Path, *columns: str) -> Iterator[dict[str, str]]:
    with _open(source) as lines:
        try:
            reader = csv.DictReader(lines)
            names = list(reader.fieldnames or ())
            missing = [column for column in columns if column not in names]
            if missing:
                raise TableError(
                    f"expected a column {missing[0]!r} in {str(source)!r}, found {names!r}: name one of them"
                )
            for row in reader:
                yield {name: row.get(name) or "" for name in names}
        except (UnicodeDecodeError, csv.Error) as error:
            raise TableError(
                f"expected a CSV file in UTF-8, found {str(source)!r} ({error}): save it as UTF-8 CSV"
            ) from error


def _done(source: Path, target: Path, header: list[str], column: str) -> int:
    """Return how many complete rows `target` has, and remove the last one, which may be cut off."""
    if not target.exists() or target.stat().st_size == 0:
        return 0
    with target.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = list(csv.reader(lines))
    if rows[0] != header:
        raise TableError(
            f"expected {str(target)!r} to hold the columns {header!r}, found {rows[0]!r}: "
            "choose another target, or remove that file"
        )
    place = header.index(column)
    written = rows[1:]
    for number, (row, given) in enumerate(zip(written, _rows(source, column), strict=False), start=1):
        if len(row) == len(header) and row[place] == given[column]:
            continue
        if number != len(written):
            raise TableError(
                f"expected row {number} of {str(target)!r} to be the input's, found {row!r}: "
                "choose another target"
            )
    # The last row is written again, because one cannot see whether its last field is complete.
    _rewrite(target, [header, *written[:-1]])
    return max(0, len(written) - 1)


def _rewrite(target: Path, rows: list[list[str]]) -> None:
    partial = target.with_name(target.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(target)
