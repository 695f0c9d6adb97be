"""Word, PowerPoint, Excel and CSV: paragraphs, slides and tables.

Every row of a table is written with the names of its columns, so that a row that is found alone makes sense.
Formulas are read as the values that were saved with them. Macros, images and embedded objects are left out.
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
from chains.retrieval.parsers.builder import DocumentBuilder, check_archive
from chains.retrieval.parsers.plain import decode, stem

_HEADING = re.compile(r"(?:heading|title)\s*(\d?)", re.IGNORECASE)


def parse_docx(name: str, data: bytes) -> ParsedDocument:
    """Parse DOCX: one block per heading; tables as one line per row, `column: value`."""
    from docx import Document
    from docx.table import Table

    check_archive(name, data)
    document = Document(io.BytesIO(data))
    builder = DocumentBuilder(name, "docx")
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
    """Parse PPTX: one block per slide, with its number as page and its title as heading; notes at its end."""
    from pptx import Presentation

    check_archive(name, data)
    deck = Presentation(io.BytesIO(data))
    builder = DocumentBuilder(name, "pptx")
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


def _shape(builder: DocumentBuilder, shape: Any) -> None:
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


def add_rows(builder: DocumentBuilder, rows: Sequence[Sequence[str]]) -> None:
    """Add a table, each row with the column names before its values."""
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
    """Return one row as `column: value; …`, without empty cells."""
    names = [*header, *[""] * (len(row) - len(header))]
    cells = [(name.strip(), value.strip()) for name, value in zip(names, row, strict=False) if value.strip()]
    return "; ".join(f"{name}: {value}" if name else value for name, value in cells)


# csv's own limit of 131,072 characters would refuse a long cell. The size of the file is the limit here.
_CELL_CHARS = 64 * 1024 * 1024


def parse_csv(name: str, data: bytes) -> ParsedDocument:
    """Parse CSV or TSV: one line per row, `column: value`; the delimiter is detected."""
    text = decode(name, data)
    csv.field_size_limit(_CELL_CHARS)  # for the whole process, which is the parsers' child
    builder = DocumentBuilder(name, "csv")
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
    """Parse XLSX: one block per sheet, with its name as heading; one line per row, `column: value`."""
    import openpyxl

    check_archive(name, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl warns about styles and extensions that it skips
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    builder = DocumentBuilder(name, "xlsx")
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


def _sheet(builder: DocumentBuilder, rows: Iterator[list[str]]) -> None:
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
