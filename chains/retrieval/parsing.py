"""The one reader of files: every door of the package opens, limits and parses files here.

Text formats are parsed in this process, all others in a limited child process. A hostile file costs one error
and nothing else: pipes, devices and sockets are never waited for, and no more is read than the limit allows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from chains.retrieval import errors
from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import (
    DamagedDocument,
    EmptyDocument,
    SourceError,
    UnsupportedFormat,
)
from chains.retrieval.parsers import IN_PROCESS, kind_of, parse
from chains.retrieval.parsers.builder import Heading, sections
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.sniff import sniff
from chains.retrieval.walk import MAX_FILE_BYTES, read_file

if TYPE_CHECKING:
    from sandbox import ParserPool

_TARGET = "chains.retrieval.parsers:parse"
MAX_ENCLOSED, MAX_ENCLOSED_DEPTH = 20_000, 8
"""Documents that one file may hold, and how deep: a mail in a mail in a mailbox is two deep."""
_MAX_NAME = 120
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*?)[ \t#]*$|^(\S.*)\n(=+|-{3,})[ \t]*$", re.MULTILINE)
# Files above this are left out of a sample, because they take long to parse.
_SAMPLE_BYTES = 1 << 20


class FoundDocument(NamedTuple):
    """A document and where it is: the file's path, or for one inside the file a path below that."""

    path: str
    document: ParsedDocument


class FileParser:
    """Turns files into documents. The child process starts with the first file that needs it."""

    def __init__(self) -> None:
        self._pool: ParserPool | None = None
        self._lock = threading.Lock()

    def read(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return the file's bytes; raise what `read_file` raises."""
        return read_file(path, max_bytes)

    def parse_all(self, path: str, data: bytes) -> list[FoundDocument]:
        """Return the document in `data`, and after it those inside it, such as the attachments of a mail.

        What cannot be read inside the file is named in the first document's `partly`.

        Raises:
            SourceError: As for `parse`; only for the file itself.
        """
        left = iter(range(MAX_ENCLOSED))
        return list(self._with_enclosed(path, data, left, 0))

    def _with_enclosed(
        self, path: str, data: bytes, left: Iterator[int], depth: int
    ) -> Iterator[FoundDocument]:
        document = self.parse(path, data)
        inside: list[FoundDocument] = []
        unread = [document.partly] if document.partly else []
        names: dict[str, int] = {}
        for one in document.enclosed:
            name = _unique(_node_name(one.name), names)
            if depth >= MAX_ENCLOSED_DEPTH or next(left, None) is None:
                unread.append(f"not read: {name} and what follows, which is more than one file may hold")
                break
            try:
                inside += self._with_enclosed(f"{path}/{name}", one.data, left, depth + 1)
            except SourceError as error:
                unread.append(f"not read: {name} ({short_reason(error)})")
        yield FoundDocument(path, replace(document, enclosed=(), partly="; ".join(unread)))
        yield from inside

    def parse(self, path: str, data: bytes) -> ParsedDocument:
        """Return the document in `data`. Its kind follows from the content, or else from the name.

        Raises:
            UnsupportedFormat: No parser reads it.
            EmptyDocument: It contains no text.
            BinaryDocument: It is not text.
            DamagedDocument: Its parser failed, or exceeded its limits of time, memory or output.
        """
        if not data:
            raise EmptyDocument(f"expected a document, found {path!r} with 0 bytes; nothing to ingest")
        kind = kind_of(path, data)
        if kind is None:
            raise UnsupportedFormat(_unsupported(path, data))
        return self._parsed(path, data, kind)

    def sample(self, paths: Sequence[str], most: int = 12) -> Iterator[str]:
        """Iterate over the texts of `most` files, spread evenly over `paths`, without the large ones."""
        for path in paths[:: max(1, len(paths) // most)][:most]:
            with suppress(SourceError):
                yield self.parse(path, self.read(path, _SAMPLE_BYTES)).text

    def parse_text(self, name: str, text: str) -> ParsedDocument:
        """Return a text that is not read from a file as a document, whose offsets are those of the text.

        Its headings are Markdown's, unless the name is that of source code. Raises EmptyDocument if the text
        is blank.
        """
        if not text.strip():
            raise EmptyDocument(f"expected text in {name!r}, found none; nothing to add")
        found = [
            Heading(
                start=match.start(),
                body=match.end(),
                level=len(match[1]) if match[1] else 1 + match[4].startswith("-"),
                text=(match[2] or match[3]).strip(),
            )
            for match in (() if kind_of(name) == "source" else _HEADING.finditer(text))
        ]
        title = found[0].text if found and found[0].level == 1 else stem(name)
        return ParsedDocument(text=text, title=title, kind="text", blocks=sections(found, len(text), title))

    def _parsed(self, path: str, data: bytes, kind: str) -> ParsedDocument:
        payload = {"name": path, "data": data, "kind": kind}
        answer = parse(payload) if kind in IN_PROCESS else self._in_child(path, payload)
        if "error" in answer:
            raise _error_from(path, answer)
        try:
            document = ParsedDocument.from_payload(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedDocument(
                f"expected a document from {path!r}, found an ill-formed answer: {error}"
            ) from error
        if not document.text.strip():
            raise EmptyDocument(f"expected text in {path!r}, found none; nothing to ingest")
        return document

    def _in_child(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        from sandbox.errors import ParserError

        try:
            return self._parser_pool().call(payload)
        except ParserError as error:
            raise DamagedDocument(
                f"expected readable {payload['kind']} in {path!r}, found a file that "
                f"its parser could not finish: {error}"
            ) from error

    def _parser_pool(self) -> ParserPool:
        with self._lock:
            if self._pool is None:
                from sandbox import ParserPool

                self._pool = ParserPool(_TARGET)
            return self._pool

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def short_reason(error: SourceError) -> str:
    """Return what was found instead of a document, for a list that names the file itself.

    >>> short_reason(SourceError("expected text in 'a.txt', found none; nothing to ingest"))
    'none'
    """
    _, found, rest = str(error).partition("found ")
    return (rest if found else str(error)).partition(";")[0].partition(" in '")[0].strip()


def _node_name(name: str) -> str:
    """Return the name of an enclosed file as one part of a path."""
    shown = "".join(char if char.isprintable() and char not in "/\\" else " " for char in name)
    shown = " ".join(shown.split()).strip(". ")
    if len(shown) > _MAX_NAME:
        stem, dot, ending = shown.rpartition(".")
        shown = f"{stem[: _MAX_NAME - 10]}{dot}{ending[:9]}" if stem else shown[:_MAX_NAME]
    return shown or "attachment"


def _unique(name: str, taken: dict[str, int]) -> str:
    """Return the name, numbered if it is taken; `taken` counts the names that were given."""
    stem, dot, ending = name.rpartition(".")
    found = name
    while found in taken:
        taken[name] += 1
        found = f"{stem} ({taken[name]}){dot}{ending}" if stem else f"{name} ({taken[name]})"
    taken[found] = 1
    return found


def _unsupported(path: str, data: bytes) -> str:
    """Return the message for a file that no parser reads."""
    what, _, mend = sniff(data).what.partition("; ")
    mend = mend or "convert it, for example to PDF"
    return f"expected a format that is read, found {what} in {path!r}; {mend}"


def _error_from(path: str, answer: dict[str, Any]) -> SourceError:
    """Return the error that a parser reported from its process."""
    kind = getattr(errors, str(answer["error"]), DamagedDocument)
    known = isinstance(kind, type) and issubclass(kind, SourceError)
    message = str(answer["message"])
    if path not in message:
        message = f"{path!r}: {message}"
    return kind(message) if known else DamagedDocument(message)
