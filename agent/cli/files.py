"""What files and standard input say: every format that a document store reads, read as it reads them."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.errors import RequestError

if TYPE_CHECKING:
    from chains.retrieval.reading import ReadText, Section

STDIN = "standard input"
_FIRST_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A text that came with a request, its sections, and the names of where it came from."""

    text: str = ""
    sections: tuple[Section, ...] = ()
    origin: str = STDIN

    def stripped(self) -> Attached:
        """Return the text without white space around it, for a message of its own."""
        return replace(self, text=self.text.strip(), sections=())


def read_attached(paths: Sequence[str]) -> Attached:
    """Return the texts of the files and of standard input, one after the other.

    Raises:
        RequestError: A name is not the name of a file.
        chains.retrieval.errors.SourceError: A file cannot be read, or is in a format that nothing reads.
    """
    data = read_stdin_bytes()
    found: list[ReadText] = []
    if paths or data.strip():
        from chains.retrieval.reading import FileReader

        with FileReader() as reader:
            for path in paths:
                found.append(_told(path, reader.read(_path(path))))
            if data.strip():
                found.append(_told(STDIN, reader.parse(STDIN, data)))
    text = ""
    sections: list[Section] = []
    for one in found:
        text += "\n\n" if text else ""
        sections += [replace(s, start=s.start + len(text), end=s.end + len(text)) for s in one.sections]
        text += one.text
    origin = ", ".join([*paths, *([STDIN] if data.strip() and not paths else [])])
    return Attached(text=text, sections=tuple(sections), origin=origin or STDIN)


def read_stdin() -> str:
    """Return the text on standard input, or "" if there is none; raise what `read_attached` raises."""
    return read_attached([]).text


def read_stdin_as_typed() -> str:
    """Return standard input as it stands, such as a prefix to complete; raise BinaryDocument if not text."""
    from chains.retrieval.parsers.decoding import decode

    data = read_stdin_bytes()
    return decode(STDIN, data) if data.strip() else ""


def read_stdin_bytes() -> bytes:
    """Return what is piped or redirected into the program, or b""; never waits for a keyboard."""
    if sys.stdin is None or sys.stdin.closed:
        return b""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return b""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return b""
    if not select.select([sys.stdin.fileno()], [], [], 1.0)[0]:
        console.note("agent: waiting for standard input (Ctrl-C ends; `< /dev/null` gives none) …")
    return sys.stdin.buffer.read()


def stdin_pieces(*, whole: bool) -> Iterator[str]:
    """Yield standard input as text: as it comes, or at once if `whole` or if it is not plain text."""
    from codecs import getincrementaldecoder

    from chains.retrieval.parsers.sniff import sniff
    from chains.retrieval.reading import FileReader

    stdin: Any = sys.stdin.buffer
    first = stdin.read1(_FIRST_BYTES)
    if whole or sniff(first).what != "text":
        data = first + stdin.read()
        if data.strip():
            with FileReader() as reader:
                yield _told(STDIN, reader.parse(STDIN, data)).text
        return
    decoder = getincrementaldecoder("utf-8-sig")("replace")
    while first:
        yield decoder.decode(first)
        first = stdin.read1(_FIRST_BYTES)
    yield decoder.decode(b"", final=True)


def read_text(path: str) -> str:
    """Return the text of a file as it stands; raise what `read_attached` raises."""
    from chains.retrieval.parsers.decoding import decode
    from chains.retrieval.walk import read_file

    return decode(path, read_file(_path(path)))


def _path(path: str) -> str:
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            raise RequestError(f"expected a file, found the folder {path!r}; name a file in it")
        if not file.exists():
            raise RequestError(f"expected a file, found none at {path!r}; check the path")
    except (RuntimeError, OSError, ValueError) as error:
        raise RequestError(f"expected a file, found none at {path!r}: {error}") from error
    return str(file)


def _told(name: str, found: ReadText) -> ReadText:
    if found.partly:
        console.note(f"read in part: {name}: {console.as_typed(found.partly)}")
    return found
