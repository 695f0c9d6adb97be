"""A text whose lines are the lines of the file, although not all that stands on them is kept.

A citation then names the line that a person finds in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import EmptyDocument
from chains.retrieval.parsers.builder import Heading, sections


class FileLines:
    r"""Collects what a reader sees of each line of a file; lines count from 0 here.

    >>> page = FileLines(3)
    >>> page.put(0, "# Tea"); page.heading(0, 1, 1, "Tea"); page.put(2, "At four.")
    >>> page.document("a.md", "markdown", "Tea").text
    '# Tea\n\nAt four.'
    """

    def __init__(self, count: int) -> None:
        self.lines = [""] * count
        self._headings: list[tuple[int, int, int, str]] = []

    def put(self, at: int, text: str, mark: str = " ") -> None:
        """Add a text to a line, behind what is there."""
        text = text.replace("\n", " ")
        at = min(at, len(self.lines) - 1)
        self.lines[at] = f"{self.lines[at]}{mark}{text}" if self.lines[at] else text

    def heading(self, first: int, after: int, level: int, text: str) -> None:
        """Start a section with the heading on lines `first` to before `after`."""
        self._headings.append((first, after, level, text))

    @property
    def top_heading(self) -> str:
        """The first heading of level 1, or ""."""
        return next((text for _, _, level, text in self._headings if level == 1), "")

    def document(
        self, name: str, kind: str, title: str, metadata: Mapping[str, Any] | None = None, partly: str = ""
    ) -> ParsedDocument:
        """Return the document; raise EmptyDocument if no line has a text."""
        offsets = [0]
        for line in self.lines:
            offsets.append(offsets[-1] + len(line) + 1)
        length = max(offsets[-1] - 1, 0)
        text = "\n".join(self.lines)
        if not text.strip():
            raise EmptyDocument(
                f"expected text in {name!r}, found none that a reader sees; nothing to ingest"
            )
        headings = [
            Heading(offsets[first], min(offsets[after], length), level, words)
            for first, after, level, words in self._headings
        ]
        return ParsedDocument(
            text=text,
            title=" ".join(title.split())[:300],
            kind=kind,
            blocks=sections(headings, length, title),
            metadata={key: value for key, value in (metadata or {}).items() if value not in (None, "")},
            partly=partly,
        )
