"""What the parsers share: a builder for documents, blocks from headings, and a check of ZIP archives.

`DocumentBuilder` is for formats whose text is not the file's own, such as PDF and HTML. `sections` is for
formats that keep the file's text, such as Markdown, and only find its headings.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument

# As much as a hundred books. A decompression bomb exceeds it within a second.
MAX_CHARS = 40_000_000


class DocumentBuilder:
    """Collects text, headings and pages in order and makes one document of them."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._start = 0
        self._path: list[tuple[int, str]] = []
        self._page: int | None = None
        self._place: Mapping[str, Any] = {}
        self._left_out: list[str] = []
        self._notes: list[str] = []

    def add(self, piece: str, end: str = "\n") -> None:
        """Append text; raise DamagedDocument if the document becomes too long."""
        if not piece:
            return
        self._length += len(piece) + len(end)
        if self._length > MAX_CHARS:
            raise DamagedDocument(
                f"expected at most {MAX_CHARS} characters in {self.name!r}, found one that unfolds into "
                "more; split it"
            )
        self._pieces.append(piece + end)

    def heading(self, text: str, level: int) -> None:
        """Start a section with a heading that is part of the text."""
        text = " ".join(text.split())
        if not text:
            return
        self._close()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, text))
        self.add(text, "\n\n")

    def page(self, number: int) -> None:
        """Start page `number`, counted from 1."""
        self._close()
        self._page = number

    def section(self, label: str, place: Mapping[str, Any] | None = None) -> None:
        """Start a section with a label that is not part of the text; "" ends the sections before.

        `place` says where in the file the section begins (see `Block`).
        """
        self._close()
        label = " ".join(label.split())
        self._path = [(1, label)] if label else []
        self._place = place or {}

    def leave_out(self, what: str) -> None:
        """Say in words that a part of the file is not in the text, and why."""
        self._left_out.append(what)

    def note(self, what: str) -> None:
        """Say in words what the reader should know about the text, such as that changes are pending."""
        self._notes.append(what)

    def _close(self) -> None:
        if self._length > self._start:
            names = " > ".join(text for _, text in self._path)
            self._blocks.append(
                Block(start=self._start, end=self._length, heading=names, page=self._page, place=self._place)
            )
            self._start = self._length

    def document(
        self, title: str, metadata: Mapping[str, Any] | None = None, empty: str = "nothing to ingest"
    ) -> ParsedDocument:
        """Return the document; raise EmptyDocument with the words of `empty` if no text was added."""
        self._close()
        text = "".join(self._pieces)
        if not text.strip():
            raise EmptyDocument(f"expected text in {self.name!r}, found none: {empty}")
        return ParsedDocument(
            text=text,
            title=" ".join(title.split())[:300],
            kind=self.kind,
            blocks=tuple(self._blocks),
            metadata={
                key: value
                for key, value in {**(metadata or {}), "notes": "; ".join(self._notes)}.items()
                if value not in (None, "")
            },
            partly="; ".join(self._left_out),
        )


class Heading(NamedTuple):
    """A heading: the offsets of its line and of the text below it, its level (1 is the top) and its text."""

    start: int
    body: int
    level: int
    text: str


def sections(headings: Iterable[Heading], length: int, title: str = "") -> tuple[Block, ...]:
    """Return one block for each heading, from its own line on, and one for the text before the first.

    A top heading equal to `title` is left out of the heading paths, because the title precedes them anyway.
    """
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    start, label = 0, ""
    for heading in headings:
        if heading.start > start:
            blocks.append(Block(start=start, end=heading.start, heading=label))
        while path and path[-1][0] >= heading.level:
            path.pop()
        path.append((heading.level, heading.text))
        names = [text for _, text in path]
        if len(names) > 1 and names[0] == title:
            names = names[1:]
        start, label = heading.start, " > ".join(names)
    blocks.append(Block(start=start, end=length, heading=label))
    return tuple(blocks)


MAX_UNPACKED_BYTES = 512 * 1024 * 1024
# An archive may unpack to this many times its size, unless it is small.
MAX_RATIO = 200
_SMALL = 8 * 1024 * 1024


# How files of Office 97 to 2003 begin, and newer ones that are locked with a password.
OLE = bytes.fromhex("d0cf11e0a1b11ae1")


def _ole_message(name: str, data: bytes) -> str:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return f"expected a readable document, found {name!r} locked with a password; save it without"
    return (
        f"expected a document in a ZIP archive, found {name!r} in the format of Office 97 to 2003; save it "
        "in a current format (.docx, .xlsx or .pptx)"
    )


def check_archive(name: str, data: bytes) -> zipfile.ZipFile:
    """Open an archive; raise DamagedDocument if it is not one or claims to unpack to a suspicious size.

    The limits of the child process catch an archive that lies about its size.
    """
    if data.startswith(OLE):
        raise DamagedDocument(_ole_message(name, data))
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise DamagedDocument(
            f"expected a ZIP-based document in {name!r}, found {str(error)!r}; save the document anew"
        ) from error
    total = sum(entry.file_size for entry in archive.infolist())
    if total > MAX_UNPACKED_BYTES or (total > _SMALL and total > MAX_RATIO * len(data)):
        raise DamagedDocument(
            f"expected a document in {name!r}, found {len(data)} bytes that claim to unfold into {total}; "
            "it looks like a decompression bomb and was not opened"
        )
    return archive
