"""A CSV file classified row by row, which can be stopped and taken up again.

Knows CSV files, batches and how far a former run came; knows no command line. The output holds the input's
columns, then `label`, `confidence` and, with several labels, `labels`. Rows are appended batch by batch and
flushed, so what is written is whole; a run that finds its output file half done checks that its rows are the
input's and goes on behind the last whole one.
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
"""Called with the rows done and the rows of the table."""

ADDED = ("label", "confidence", "labels")


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What was done: `rows` of the table, `resumed` found done, `skipped` for want of a text (no label)."""

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
    """Classify the `column` of the CSV at `source` into `target`, going on where a former run stopped.

    Args:
        chain: Made by `classify_chain`.
        source: UTF-8 CSV with a header.
        target: Written beside the input's columns; must not be `source`.
        column: Name of the column that holds the text.
        batch_size: Rows classified, then written, at once.
        progress: Called after each batch.

    Raises:
        TableError: no such column, no rows, a file that is no CSV, or an output that belongs to another
            input.
    """
    total = sum(1 for _ in _rows(source, column))
    if total == 0:
        raise TableError(f"expected rows under the header of {str(source)!r}, found none: add rows")
    if target.exists() and target.samefile(source):
        raise TableError(
            f"expected another file than the input, found {str(target)!r} for both: choose another --out"
        )
    header = [*_header(source), *ADDED]
    done = _done(source, target, header, column)
    skipped = 0
    with target.open("a", encoding="utf-8", newline="") as out:
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
    """Return the labelled examples of a CSV with the columns `text` and `label`.

    Raises:
        TableError: a column is missing, or there are no rows.
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
            # Empty, or no text: the row keeps its place without a label.
            found, skipped = Classification(None), skipped + 1
        elif isinstance(found, Exception):
            raise found
        told = {
            **row,
            "label": found.label or "",
            "confidence": f"{found.confidence:.4f}" if found.scores else "",
            "labels": "|".join(found.labels),
        }
        writer.writerow([told[name] for name in header])  # type: ignore[attr-defined]
    return skipped


def _open(path: Path) -> IO[str]:
    try:
        # The csv module refuses fields over 131,072 characters unless told otherwise: long texts are meant.
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
    """Count the whole rows that `target` holds already, and drop a last one that was written in part."""
    if not target.exists() or target.stat().st_size == 0:
        return 0
    with target.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = list(csv.reader(lines))
    if rows[0] != header:
        raise TableError(
            f"expected {str(target)!r} to hold the columns {header!r}, found {rows[0]!r}: "
            "choose another --out, or remove that file"
        )
    place = header.index(column)
    written = rows[1:]
    for number, (row, given) in enumerate(zip(written, _rows(source, column), strict=False), start=1):
        if len(row) == len(header) and row[place] == given[column]:
            continue
        if number != len(written):
            raise TableError(
                f"expected row {number} of {str(target)!r} to be the input's, found {row!r}: "
                "choose another --out"
            )
    # The last row is always written anew: whether its final field is whole cannot be seen.
    _rewrite(target, [header, *written[:-1]])
    return max(0, len(written) - 1)


def _rewrite(target: Path, rows: list[list[str]]) -> None:
    beside = target.with_name(target.name + ".part")
    with beside.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(target)
