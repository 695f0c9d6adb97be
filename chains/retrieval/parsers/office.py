"""Word and PowerPoint: paragraphs, tables, slides and notes.

python-docx and python-pptx read the file; a table's rows keep their header. Macros, images and embedded
objects are left out.

Spreadsheets and delimited text: every row with its header, so that a row found alone speaks for itself.

Formulas are read as the values that were saved with them; nothing is computed.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import Builder, check_archive
from chains.retrieval.parsers.plain import decode, stem

_HEADING = re.compile(r"(?:heading|title)\s*(\d?)", re.IGNORECASE)


def parse_docx(name: str, data: bytes) -> ParsedDocument:
    """DOCX: a block a heading; tables as one line a row, `column: value`."""
    from docx import Document
    from docx.table import Table

    check_archive(name, data)
    document = Document(io.BytesIO(data))
    builder = Builder(name, "docx")
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in item.rows]
            add_rows(builder, rows)
            continue
        style = (item.style.name if item.style is not None else "") or ""
        match = _HEADING.match(style)
        if match:
            builder.heading(item.text, int(match[1] or 1))
        else:
            bullet = "- " if style.lower().startswith("list") and item.text.strip() else ""
            builder.add(bullet + item.text.strip(), "\n\n" if not bullet else "\n")
    facts = document.core_properties
    metadata = {"author": facts.author, "date": str(facts.modified or facts.created or "")}
    return builder.document(facts.title or stem(name), metadata)


def parse_pptx(name: str, data: bytes) -> ParsedDocument:
    """PPTX: a block a slide, its number the page, its title the heading; notes behind the slide's text."""
    from pptx import Presentation

    check_archive(name, data)
    deck = Presentation(io.BytesIO(data))
    builder = Builder(name, "pptx")
    for number, slide in enumerate(deck.slides, start=1):
        builder.page(number)
        title = slide.shapes.title
        builder.section(title.text if title is not None and title.has_text_frame else f"Slide {number}")
        for shape in slide.shapes:
            _shape(builder, shape)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text.strip()
            builder.add(f"Notes: {notes}" if notes else "")
        builder.add("\n", "")
    facts = deck.core_properties
    metadata = {"author": facts.author, "date": str(facts.modified or ""), "pages": len(deck.slides)}
    return builder.document(facts.title or stem(name), metadata)


def _shape(builder: Builder, shape: Any) -> None:
    pending = [shape]
    while pending:
        one = pending.pop(0)
        if hasattr(one, "shapes"):  # a group
            pending[:0] = list(one.shapes)
        elif getattr(one, "has_table", False):
            rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in one.table.rows]
            add_rows(builder, rows)
        elif getattr(one, "has_text_frame", False):
            builder.add(one.text_frame.text.strip())


def add_rows(builder: Builder, rows: Sequence[Sequence[str]]) -> None:
    """Adds a table, each row with the header's names before its values."""
    if not rows:
        return
    header = rows[0]
    if len(rows) == 1:
        builder.add(" | ".join(filter(None, header)))
        return
    for row in rows[1:]:
        builder.add(row_text(header, row))
    builder.add("\n", "")


def row_text(header: Sequence[str], row: Sequence[str]) -> str:
    """One row as `column: value; …`, empty cells left out."""
    names = [*header, *[""] * (len(row) - len(header))]
    cells = [(name.strip(), value.strip()) for name, value in zip(names, row, strict=False) if value.strip()]
    return "; ".join(f"{name}: {value}" if name else value for name, value in cells)


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
