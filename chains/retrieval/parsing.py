"""Reads files and parses them: text formats in this process, all others in a limited child process.

A hostile file costs one error and nothing else.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from chains.retrieval import errors
from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import (
    DamagedDocument,
    EmptyDocument,
    SourceError,
    SourceUnreadable,
    UnsupportedFormat,
)
from chains.retrieval.parsers import IN_PROCESS, kind_of, parse
from chains.retrieval.parsers.sniff import sniff

if TYPE_CHECKING:
    from sandbox import ParserPool

_TARGET = "chains.retrieval.parsers:parse"


class FileParser:
    """Turns files into documents. The child process starts with the first file that needs it."""

    def __init__(self) -> None:
        self._pool: ParserPool | None = None
        self._lock = threading.Lock()

    def read(self, path: str) -> bytes:
        """Return the file's bytes; raise SourceUnreadable."""
        try:
            with open(path, "rb") as handle:
                return handle.read()
        except OSError as error:
            raise SourceUnreadable(
                f"expected to read {path!r}, found {error.strerror!r}; check its owner and mode"
            ) from error

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
