"""PDF: the text layer, page by page.

No text is recognized in images, so a scan fails with a message that says so. Encrypted files open only if
their password is empty.
"""

from __future__ import annotations

import io
import logging
from typing import Any

from pypdf import PdfReader

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.plain import stem

# Titles that programs write if the author gave none.
_NO_TITLES = {"", "untitled", "untitled document", "(untitled)", "unknown", "none"}


def parse_pdf(name: str, data: bytes) -> ParsedDocument:
    """Parse PDF: one block per page, numbered from 1; the title is in the metadata, or else the file's name.

    Raises:
        EmptyDocument: No page has a text layer.
        DamagedDocument: The file is encrypted with a password.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it copes with
    reader = PdfReader(io.BytesIO(data), strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise DamagedDocument(
            f"expected a readable PDF, found {name!r} locked with a password; save it without"
        )
    builder = DocumentBuilder(name, "pdf")
    for number, page in enumerate(reader.pages, start=1):
        builder.page(number)
        builder.add(_tidy(page.extract_text() or ""), "\n\n")
    facts: Any = reader.metadata or {}
    metadata = {
        "author": _text(facts.get("/Author")),
        "date": _text(facts.get("/CreationDate")),
        "pages": len(reader.pages),
    }
    title = _text(facts.get("/Title"))
    if title.casefold() in _NO_TITLES:
        title = stem(name)
    return builder.document(title, metadata, "no text layer (a scan?); run it through OCR first")


def _text(value: Any) -> str:
    return " ".join(str(value).split()) if value else ""


def _tidy(text: str) -> str:
    """Join words that were hyphenated at the end of a line, and drop spaces at the ends of lines."""
    lines = [line.rstrip() for line in text.split("\n")]
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].endswith("-") and joined[-1][-2:-1].isalpha() and line[:1].islower():
            joined[-1] = joined[-1][:-1] + line
        else:
            joined.append(line)
    return "\n".join(joined)
