"""PDF: the text layer page by page.

A scan has none, and says so; nothing is recognized from images. Encrypted files open only where the password
is empty.
"""

from __future__ import annotations

import io
import logging
from typing import Any

from pypdf import PdfReader

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.plain import stem

# What programs write where nobody gave a title.
_NO_TITLES = {"", "untitled", "untitled document", "(untitled)", "unknown", "none"}
logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of each oddity that it copes with


def parse_pdf(name: str, data: bytes) -> ParsedDocument:
    """PDF: a block a page, numbered from 1; titled by the file's own metadata where it tells, else its name.

    Raises:
        EmptyDocument: no page has a text layer.
        DamagedDocument: the file is encrypted with a password.
    """
    reader = PdfReader(io.BytesIO(data), strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise DamagedDocument(
            f"expected a readable PDF, found {name!r} locked with a password; save it without"
        )
    builder = Builder(name, "pdf")
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
    """Joins words that were hyphenated at a line's end and drops the spaces lines end with."""
    lines = [line.rstrip() for line in text.split("\n")]
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].endswith("-") and joined[-1][-2:-1].isalpha() and line[:1].islower():
            joined[-1] = joined[-1][:-1] + line
        else:
            joined.append(line)
    return "\n".join(joined)
