"""Spreadsheets and delimited text: every row with its header, so that a row found alone speaks for itself.

Formulas are read as the values that were saved with them; nothing is computed.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.archive import check_archive
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.office import row_text
from chains.retrieval.parsers.plain import decode, stem

# csv's own limit of 131,072 would refuse a long cell; the file size bounds it anyway.
csv.field_size_limit(64 * 1024 * 1024)


def parse_csv(name: str, data: bytes) -> ParsedDocument:
    """CSV and TSV: one line a row, `column: value`; the delimiter is detected."""
    text = decode(name, data)
    builder = Builder(name, "csv")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(name, text))
    header = next(rows, [])
    count = 0
    for row in rows:
        builder.add(row_text(header, row))
        count += 1
    if count == 0:
        builder.add(" | ".join(header))
    metadata = {"rows": count, "columns": ", ".join(header)[:500]}
    return builder.document(stem(name), metadata)


def _delimiter(name: str, text: str) -> str:
    if PurePath(name).suffix.lower() == ".tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(text[:16_384], delimiters=",;\t|").delimiter
    except csv.Error:
        return ","


def parse_xlsx(name: str, data: bytes) -> ParsedDocument:
    """XLSX: a block a sheet, its name the heading; one line a row, `column: value`."""
    import openpyxl

    check_archive(name, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # styles and extensions that it leaves out
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    builder = Builder(name, "xlsx")
    for sheet in book.worksheets:
        builder.section(sheet.title)
        _sheet(builder, _filled(sheet))
    facts = book.properties
    metadata = {"author": facts.creator, "date": str(facts.modified or ""), "sheets": len(book.worksheets)}
    return builder.document(facts.title or stem(name), metadata)


def _filled(sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows(values_only=True):
        cells = ["" if value is None else " ".join(str(value).split()) for value in row]
        if any(cells):
            yield cells


def _sheet(builder: Builder, rows: Iterator[list[str]]) -> None:
    header = next(rows, None)
    if header is None:
        return
    count = 0
    for row in rows:
        builder.add(row_text(header, row))
        count += 1
    if count == 0:
        builder.add(" | ".join(filter(None, header)))
    builder.add("\n", "")
