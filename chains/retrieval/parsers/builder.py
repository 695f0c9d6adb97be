"""Puts a document together piece by piece: text, headings, pages, and a cap on how much there may be.

For formats whose text is not the file's own. Knows offsets; a file that unfolds into more text than the cap
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument

# A hundred books; a zip bomb passes it within a second.
MAX_CHARS = 40_000_000


class Builder:
    """Collects pieces of text in order and hands over one document."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._start = 0
        self._path: list[tuple[int, str]] = []
        self._page: int | None = None

    def add(self, piece: str, end: str = "\n") -> None:
        """Appends text; raises DamagedDocument where the document passes the cap."""
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
        """Starts a section under a heading, which also stands in the text."""
        text = " ".join(text.split())
        if not text:
            return
        self._close()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, text))
        self.add(text, "\n\n")

    def page(self, number: int) -> None:
        """Starts page `number`, from 1."""
        self._close()
        self._page = number

    def section(self, label: str) -> None:
        """Starts a section whose label does not stand in the text."""
        self._close()
        self._path = [(1, " ".join(label.split()))]

    def _close(self) -> None:
        if self._length > self._start:
            names = " > ".join(text for _, text in self._path)
            self._blocks.append(Block(start=self._start, end=self._length, heading=names, page=self._page))
            self._start = self._length

    def document(
        self, title: str, metadata: Mapping[str, Any] | None = None, empty: str = "nothing to ingest"
    ) -> ParsedDocument:
        """The document; raises EmptyDocument with the words of `empty` where no text was added."""
        self._close()
        text = "".join(self._pieces)
        if not text.strip():
            raise EmptyDocument(f"expected text in {self.name!r}, found none: {empty}")
        return ParsedDocument(
            text=text,
            title=" ".join(title.split())[:300],
            kind=self.kind,
            blocks=tuple(self._blocks),
            metadata={key: value for key, value in (metadata or {}).items() if value not in (None, "")},
        )
