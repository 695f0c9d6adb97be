"""PDF: text in reading order with the printed page numbers, headings, tables, form fields and comments."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument
from chains.retrieval.parsers.pdf_flow import OutlineEntry, PageFlow, PrintedPage
from chains.retrieval.parsers.pdf_form import add_annotations
from chains.retrieval.parsers.pdf_furniture import take_furniture
from chains.retrieval.parsers.pdf_layout import arrange
from chains.retrieval.parsers.pdf_page import PageContent, read_page
from chains.retrieval.parsers.plain import stem

# Titles that programs write if the author gave none.
_NO_TITLE = re.compile(
    r"\(?untitled.*|\(?(?:unknown|none|anonymous|unspecified)\)?|document\d*|slide \d+|"
    r"powerpoint presentation|microsoft \w+ - .*|"
    r".*\.(?:docx?|pdf|indd|dvi|tex|xlsx?|pptx?|qxd|odt|rtf|html?|txt|pages|p65|ps)",
    re.IGNORECASE,
)
MAX_PAGES = 20_000
_MAX_ENTRIES = 5_000
_OCR_HINT = "run the file through OCR first"


def parse_pdf(name: str, data: bytes) -> ParsedDocument:
    """Parse PDF: one block per page and heading; the title is in the metadata, or the largest heading.

    Raises:
        EmptyDocument: No page has a text layer.
        DamagedDocument: The file is locked with a password, or is not a PDF.
    """
    document = _opened(name, data)
    try:
        return _PdfReader(name, document).read()
    finally:
        document.close()


def _opened(name: str, data: bytes) -> Any:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DamagedDocument(
                f"expected a readable PDF, found {name!r} locked with a password; save it without"
            ) from error
        with contextlib.suppress(pypdfium2.PdfiumError):
            return pypdfium2.PdfDocument(_with_trailer(data))
        raise DamagedDocument(
            f"expected a readable PDF, found {name!r} damaged beyond repair ({error}); save it anew"
        ) from error


_CATALOG = re.compile(rb"(\d{1,8})\s+(\d{1,5})\s+obj\b(?:(?!endobj)[\s\S]){0,400}?/Type\s*/Catalog\b")


def _with_trailer(data: bytes) -> bytes:
    """Return a file whose end is lost with a trailer that leads to its catalog; PDFium finds the rest."""
    found = [match[1] + b" " + match[2] for match in _CATALOG.finditer(data)]
    return data + b"\ntrailer<</Root " + found[-1] + b" R>>\n%%EOF\n" if found else data


class _PdfReader:
    """Reads one document, and notes what cannot be read."""

    def __init__(self, name: str, document: Any) -> None:
        self._name = name
        self._document = document
        self._pictures: list[int] = []
        self._garbled: list[int] = []
        self._damaged: list[int] = []
        self._left_out: list[str] = []

    def read(self) -> ParsedDocument:
        document = self._document
        count = len(document)
        if document.get_formtype() != pdfium.FORMTYPE_NONE:
            document.init_forms()
        contents = [self._content(at) for at in range(min(count, MAX_PAGES))]
        labels = [_label(document, at) or str(at + 1) for at in range(len(contents))]
        if count > MAX_PAGES:
            self._left_out.append(f"only the first {MAX_PAGES} of {count} pages were read")
        furniture = take_furniture(contents, labels)
        pages = [
            PrintedPage(content.number, label, arrange(content), content.comments)
            for content, label in zip(contents, labels, strict=True)
        ]
        heights = [content.height for content in contents]
        flow = PageFlow(pages, list(_outline(document, heights)), furniture)
        flow.build()
        self._say_what_is_missing()
        if not flow.text.strip():
            raise EmptyDocument(
                f"expected text in {self._name!r}, found none: {'; '.join(self._left_out) or 'no text layer'}"
            )
        facts = {key: _fact(document, key) for key in ("Title", "Author", "CreationDate")}
        title = "" if _NO_TITLE.fullmatch(facts["Title"]) else facts["Title"]
        metadata = {
            "author": "" if _NO_TITLE.fullmatch(facts["Author"]) else facts["Author"],
            "date": facts["CreationDate"],
            "pages": count,
        }
        return ParsedDocument(
            text=flow.text,
            title=(title or flow.title or stem(self._name))[:300],
            kind="pdf",
            blocks=flow.blocks(),
            metadata={key: value for key, value in metadata.items() if value},
            partly="; ".join(self._left_out),
            boxes=tuple(flow.boxes),
        )

    def _content(self, at: int) -> PageContent:
        try:
            page = self._document[at]
        except pypdfium2.PdfiumError:
            self._damaged.append(at + 1)
            return PageContent(at + 1, 0.0, 0.0)
        try:
            content = read_page(page, at + 1)
            add_annotations(page, self._document, content)
        finally:
            page.close()
        letters = sum(len(segment.text) for segment in content.segments)
        if content.is_picture:
            self._pictures.append(at + 1)
        elif content.unreadable > 20 and content.unreadable > 0.3 * max(letters, 1):
            self._garbled.append(at + 1)
            content.segments = []
        return content

    def _say_what_is_missing(self) -> None:
        if self._pictures:
            self._left_out.append(f"{_pages(self._pictures)} without a text layer (a scan?); {_OCR_HINT}")
        if self._garbled:
            self._left_out.append(f"{_pages(self._garbled)} in letters without meaning; {_OCR_HINT}")
        if self._damaged:
            self._left_out.append(f"{_pages(self._damaged)} damaged")
        if self._document.get_formtype() == pdfium.FORMTYPE_XFA_FULL:
            self._left_out.append("its form is in XFA, which is not read; print it to a PDF")
        for attached in _attachments(self._document):
            self._left_out.append(f"the attachment {attached!r} was not read")


def _pages(numbers: list[int]) -> str:
    """Return "page 3 is" or "pages 1, 4 to 7 are"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
    return f"page {words} is" if len(numbers) == 1 else f"pages {words} are"


def _fact(document: Any, key: str) -> str:
    return " ".join(str(document.get_metadata_value(key) or "").replace("\0", "").split())


def _label(document: Any, at: int) -> str:
    size = pdfium.FPDF_GetPageLabel(document.raw, at, None, 0)
    if not 2 < size < 200:
        return ""
    buffer = ctypes.create_string_buffer(size)
    pdfium.FPDF_GetPageLabel(document.raw, at, buffer, size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace").strip()


def _outline(document: Any, heights: list[float]) -> Iterator[OutlineEntry]:
    found = 0
    try:
        for bookmark in document.get_toc(max_depth=12):
            destination = bookmark.get_dest()
            page = destination.get_index() if destination else None
            title = " ".join(bookmark.get_title().split())
            if page is None or not 0 <= page < len(heights) or not title:
                continue
            yield OutlineEntry(title, bookmark.level + 1, page, _destination_top(destination, heights[page]))
            found += 1
            if found >= _MAX_ENTRIES:
                return
    except pypdfium2.PdfiumError:
        return


def _destination_top(destination: Any, height: float) -> float | None:
    has_x, has_y, has_zoom = (ctypes.c_int() for _ in range(3))
    x, y, zoom = (ctypes.c_float() for _ in range(3))
    read = pdfium.FPDFDest_GetLocationInPage(destination.raw, has_x, has_y, has_zoom, x, y, zoom)
    return height - y.value if read and has_y.value else None


def _attachments(document: Any) -> Iterator[str]:
    for at in range(min(document.count_attachments(), 50)):
        yield document.get_attachment(at).get_name()
