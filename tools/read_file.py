"""read_file: files below the allowed folders, and nothing else.

Links and `..` are resolved before a path is checked. The path of the opened file is checked again, because a
link can be swapped between the check and the open. Devices, pipes, sockets and folders are refused. Text is
shown as it stands; documents (Word, PDF, mail and all others that a store reads) are parsed in a child with
limits. Long files are read in parts.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from tools.errors import ToolInputError, error_text

Folder = str | os.PathLike[str]
MAX_BYTES = 256 * 1024
_SNIFFED = 256 * 1024
DESCRIPTION = (
    "Read a file or document below the user's allowed folders. Give its path; "
    "long files are read in parts by offset."
)
_AS_IT_STANDS = frozenset({"text", "markdown", "rst", "source", "csv", "json", "jsonl", "xml"})
"""Kinds of text that are shown as they stand, not as a store would keep them."""


class ReadFileInput(BaseModel):
    """Arguments of read_file."""

    path: str = Field(description="path of the file, absolute or relative to the first allowed folder")
    offset: int = Field(default=0, ge=0, description="byte to begin at")


class FileRefusedError(ToolInputError):
    """A file that must not or cannot be read."""


def read_file_tool(
    folders: Folder | Sequence[Folder], *, max_bytes: int = MAX_BYTES, name: str = "read_file"
) -> BaseTool:
    """Return a tool that reads files and documents; a file that must not be read is reported to the model.

    >>> read_file_tool("examples/docs").invoke({"path": "../../pyproject.toml"})
    "error: expected a file below the allowed folders (examples/docs), found '../../pyproject.toml'; ..."

    Args:
        folders: Folders whose files may be read, at any depth. An empty sequence allows nothing.
        max_bytes: Bytes of one answer. A further call with an offset reads more.
        name: Name of the tool.
    """
    # A string is a sequence too, and its letter "/" would allow every file.
    several = [folders] if isinstance(folders, str | os.PathLike) else folders
    allowed = [Path(folder).expanduser() for folder in several]

    def read(path: str, offset: int = 0) -> str:
        return read_text(path, allowed, offset=offset, max_bytes=max_bytes)

    return StructuredTool.from_function(
        read,
        name=name,
        description=DESCRIPTION,
        args_schema=ReadFileInput,
        handle_tool_error=error_text,
        metadata={"kind": "read", "reaches": "machine"},
    )


def read_text(path: str, allowed: Sequence[Path], *, offset: int = 0, max_bytes: int = MAX_BYTES) -> str:
    """Return at most `max_bytes` of a file's text from `offset`; a last line says how much is left.

    Offsets count the bytes of a text file, and of a document the bytes of its text in UTF-8.

    Raises:
        FileRefusedError: the file is outside the folders, missing, not readable, not a regular file, or in a
            format that nothing reads.
    """
    if "\0" in path or not path.strip():
        raise FileRefusedError(f"expected a path, found {path!r}; name a file")
    try:
        wanted = Path(path).expanduser()
        os.fsencode(wanted)
    except (RuntimeError, UnicodeEncodeError) as error:  # an unknown ~user, or half a surrogate pair
        raise _unreadable(path, error) from None
    if not wanted.is_absolute() and allowed:
        wanted = allowed[0] / wanted
    _check_before_opening(path, wanted, allowed)
    try:
        # Without O_NONBLOCK, opening a pipe that has no writer would wait for ever.
        descriptor = os.open(wanted, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with open(descriptor, "rb") as file:
        if not _is_below(_real_path(descriptor, wanted), allowed):
            raise _outside(path, allowed)
        about = os.fstat(descriptor)
        _check_kind(path, about.st_mode)
        size = about.st_size
        parsed = _parsed(path, file, size)
        size = size if parsed is None else len(parsed)
        if offset > size:
            raise FileRefusedError(
                f"expected an offset within the file's {size} bytes, found {offset}; begin earlier"
            )
        if parsed is not None:
            return _part(parsed[offset : offset + max_bytes], offset, size)
        file.seek(offset)
        return _part(file.read(max_bytes), offset, size)


def _parsed(path: str, file: BinaryIO, size: int) -> bytes | None:
    """Return the text of a document in UTF-8, or None if the file is a text that is shown as it stands."""
    from chains.retrieval.errors import EmptyDocument, SourceError
    from chains.retrieval.parsers import kind_of
    from chains.retrieval.reading import FileReader
    from chains.retrieval.walk import MAX_FILE_BYTES

    head = file.read(_SNIFFED)
    plain = kind_of(path, head) in _AS_IT_STANDS
    if plain and (size > MAX_FILE_BYTES or _is_utf8(head)):
        return None
    if size > MAX_FILE_BYTES:
        raise FileRefusedError(f"expected at most {MAX_FILE_BYTES} bytes, found {size} in {path!r}")
    try:
        with FileReader() as reader:
            found = reader.parse(path, head + file.read(MAX_FILE_BYTES))
    except EmptyDocument:
        return b""
    except SourceError as error:
        raise FileRefusedError(str(error)) from error
    note = f"\n[read in part: {found.partly}]" if found.partly else ""
    return (found.text + note).encode("utf-8", "replace")


def _is_utf8(head: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8 text; a character that they cut does not count."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        decoder.decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _check_before_opening(path: str, wanted: Path, allowed: Sequence[Path]) -> None:
    """Refuse a path before it is opened, because opening a device may have effects.

    The error for a path outside the folders is the same whether the file exists or not.
    """
    if not _is_below(os.path.realpath(wanted), allowed):
        raise _outside(path, allowed)
    try:
        _check_kind(path, wanted.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_kind(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise FileRefusedError(f"expected a file, found {_kind(mode)} at {path!r}; name a text file")


def _unreadable(path: str, error: Exception) -> FileRefusedError:
    reason = getattr(error, "strerror", None) or str(error)
    return FileRefusedError(f"{path!r} cannot be read: {reason}; check the path")


def _real_path(descriptor: int, wanted: Path) -> str:
    """Return the real path of an open file.

    Without /proc it is the real path of the name, or "" if the name leads to another file by now.
    """
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        real = os.path.realpath(wanted)
        return real if os.path.samestat(os.stat(real), os.fstat(descriptor)) else ""


def _is_below(real: str, allowed: Sequence[Path]) -> bool:
    return any(Path(real).is_relative_to(os.path.realpath(folder)) for folder in allowed)


def _outside(path: str, allowed: Sequence[Path]) -> FileRefusedError:
    places = ", ".join(map(str, allowed)) or "none"
    return FileRefusedError(
        f"expected a file below the allowed folders ({places}), found {path!r}; ask for that folder"
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")


def _part(data: bytes, offset: int, size: int) -> str:
    """Return the text and a line that says how much is left; a character cut by the limit is left too."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = offset + len(data) >= size or len(data) < 4  # a part smaller than a character would never end
    text = decoder.decode(data, final=last)
    end = offset + len(data) - len(decoder.getstate()[0])
    return text + (f"\n[{size - end} bytes left; call again with offset {end}]" if end < size else "")
