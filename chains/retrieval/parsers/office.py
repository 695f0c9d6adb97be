"""Word and PowerPoint: paragraphs, tables, slides and notes.

python-docx and python-pptx read the file; a table's rows keep their header. Macros, images and embedded
objects are left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.archive import check_archive
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.plain import stem

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
