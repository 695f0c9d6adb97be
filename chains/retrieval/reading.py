r"""Files read as one text with its sections, for the doors that store nothing: a question, a summary, a tool.

>>> import pathlib, tempfile
>>> path = pathlib.Path(tempfile.mkdtemp(), "tea.eml")
>>> _ = path.write_text("From: ada@x.example\nSubject: Tea\n\nCome at four.")
>>> with FileReader() as reader:
...     print(reader.read(str(path)).text.splitlines()[-1])
Come at four.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from chains.retrieval.document import LINE_KINDS, ParsedDocument
from chains.retrieval.errors import SourceError
from chains.retrieval.parsing import FileParser, FoundDocument
from chains.retrieval.walk import MAX_FILE_BYTES, survey


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a text that was read: its span, and where it stands in its file.

    `start` and `end` are offsets into `ReadText.text`. `page` and `line` count from 1; they are None in
    formats without pages or without lines of their own.
    """

    start: int
    end: int
    source: str
    title: str = ""
    heading: str = ""
    page: int | None = None
    line: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadText:
    """The text of a file and of the documents inside it, with its sections; `partly` names the rest."""

    text: str
    kind: str
    sections: tuple[Section, ...] = ()
    partly: str = ""


@dataclass(kw_only=True, slots=True)
class ReadFolder:
    """The texts of the files in a folder by path, and why the others were not read."""

    texts: dict[str, ReadText] = field(default_factory=dict)
    unread: dict[str, SourceError] = field(default_factory=dict)


class FileReader:
    """Reads files of every format that a store reads. Use it as a context manager, which ends its child."""

    def __init__(self) -> None:
        self._parser = FileParser()

    def __enter__(self) -> FileReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process, if one was started."""
        self._parser.close()

    def read(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> ReadText:
        """Return the text of a file.

        Raises:
            SourceError: It does not exist, is no file, is too large, or no parser reads it.
        """
        return self.parse(path, self._parser.read(path, max_bytes))

    def parse(self, name: str, data: bytes) -> ReadText:
        """Return the text in `data`, which came from a file or a pipe of that name.

        Raises:
            SourceError: No parser reads it, or it holds no text.
        """
        return _joined(self._parser.parse_all(name, data))

    def read_folder(self, folder: str, max_bytes: int = MAX_FILE_BYTES) -> ReadFolder:
        """Return the texts of the files that an ingest of the folder would read, without empty ones.

        Raises:
            SourceNotFound, SourceUnreadable: The folder does not exist, or cannot be listed.
        """
        found = survey([folder], max_bytes)
        result = ReadFolder(unread=dict([*found.failed, *found.passed_over]))
        for path in sorted(found.files):
            try:
                result.texts[path] = self.read(path, max_bytes)
            except SourceError as error:
                if found.files[path].size:
                    result.unread[path] = error
        return result


def _joined(found: Iterable[FoundDocument]) -> ReadText:
    """Return the documents of a file as one text; each document inside it begins with its name."""
    documents = list(found)
    pieces: list[str] = []
    sections: list[Section] = []
    length = 0
    for number, (path, document) in enumerate(documents):
        if number:
            name = os.path.relpath(path, documents[0].path)
            lead = f"\n\n# {name}\n\n"
            pieces.append(lead)
            length += len(lead)
        sections += _sections(path, document, length)
        pieces.append(document.text)
        length += len(document.text)
    return ReadText(
        text="".join(pieces),
        kind=documents[0].document.kind,
        sections=tuple(sections),
        partly="; ".join(one.document.partly for one in documents if one.document.partly),
    )


def _sections(path: str, document: ParsedDocument, offset: int) -> Iterator[Section]:
    line, at = 1, 0
    for block in document.blocks:
        line += document.text.count("\n", at, block.start)
        at = block.start
        own = line if document.kind in LINE_KINDS else None
        yield Section(
            start=offset + block.start,
            end=offset + block.end,
            source=path,
            title=document.title,
            heading=block.heading,
            page=block.page,
            line=block.place.get("line", own),
        )
