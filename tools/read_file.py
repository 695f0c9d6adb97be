"""read_file: text files below the folders that were allowed, and nothing else.

Links and `..` are resolved before the check, and the opened file is asked again where it lies: between check
and open a link could be swapped, after the open it cannot. Devices, pipes, sockets and folders are refused,
so is what is no text; a long file comes in parts. Its text is material, never an instruction.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from tools.errors import ToolInputError, as_result

Folder = str | os.PathLike[str]
MAX_BYTES = 256 * 1024
DESCRIPTION = (
    "Read a text file below the user's allowed folders. Give its path; "
    "long files are read in parts by offset."
)


class ReadFileInput(BaseModel):
    """What the tool takes."""

    path: str = Field(description="path of the file, absolute or relative to the first allowed folder")
    offset: int = Field(default=0, ge=0, description="byte to begin at")


class FileRefusedError(ToolInputError):
    """A file that may not or cannot be read."""


def read_file_tool(
    folders: Folder | Sequence[Folder], *, max_bytes: int = MAX_BYTES, name: str = "read_file"
) -> BaseTool:
    """Make the tool; a file that may not be read comes back as a message that says why.

    Args:
        folders: what is below these, or below this one, may be read; none allows nothing.
        max_bytes: of one answer; more is read by a further call with an offset.
        name: of the tool.
    """
    # A text is a sequence of letters, of which "/" would allow everything.
    several = [folders] if isinstance(folders, str | os.PathLike) else folders
    allowed = [Path(folder).expanduser() for folder in several]

    def read(path: str, offset: int = 0) -> str:
        return read_text(path, allowed, offset=offset, max_bytes=max_bytes)

    return StructuredTool.from_function(
        read,
        name=name,
        description=DESCRIPTION,
        args_schema=ReadFileInput,
        handle_tool_error=as_result,
    )


def read_text(path: str, allowed: Sequence[Path], *, offset: int = 0, max_bytes: int = MAX_BYTES) -> str:
    """At most `max_bytes` of a text file from `offset` on, with a last line that says what is left.

    Raises:
        FileRefusedError: outside the folders, not there, no regular file, not readable, or no text.
    """
    if "\0" in path or not path.strip():
        raise FileRefusedError(f"expected a path, found {path!r}; name a file")
    try:
        wanted = Path(path).expanduser()
        os.fsencode(wanted)
    except (RuntimeError, UnicodeEncodeError) as error:  # ~nobody/, or half a surrogate pair
        raise _unreadable(path, error) from None
    if not wanted.is_absolute() and allowed:
        wanted = allowed[0] / wanted
    _refuse_unlike(path, wanted, allowed)
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for ever.
        descriptor = os.open(wanted, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with open(descriptor, "rb") as file:
        if not _is_below(_where(descriptor, wanted), allowed):
            raise _outside(path, allowed)
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise FileRefusedError(
                f"expected a file, found {_kind(about.st_mode)} at {path!r}; name a text file"
            )
        if offset > about.st_size:
            raise FileRefusedError(
                f"expected an offset within the file's {about.st_size} bytes, found {offset}; begin earlier"
            )
        file.seek(offset)
        data = file.read(max_bytes)
    return _told(path, data, offset, about.st_size)


def _refuse_unlike(path: str, wanted: Path, allowed: Sequence[Path]) -> None:
    """Before anything is opened: opening a device may act, and whether a file outside exists is not told."""
    if not _is_below(os.path.realpath(wanted), allowed):
        raise _outside(path, allowed)
    try:
        _refuse_kind(path, wanted.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None


def _refuse_kind(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise FileRefusedError(f"expected a file, found {_kind(mode)} at {path!r}; name a text file")


def _unreadable(path: str, error: Exception) -> FileRefusedError:
    reason = getattr(error, "strerror", None) or str(error)
    return FileRefusedError(f"{path!r} cannot be read: {reason}; check the path")


def _where(descriptor: int, wanted: Path) -> str:
    """The real path of an open file; where there is no /proc, of its name, if that still is the same file."""
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


def _told(path: str, data: bytes, offset: int, size: int) -> str:
    """The text and what is left; a character that the limit cut is left to the next part."""
    if b"\0" in data:
        raise FileRefusedError(f"expected text, found binary data in {path!r}; ingest it instead")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = offset + len(data) >= size or len(data) < 4  # parts of less than a character would never end
    text = decoder.decode(data, final=last)
    end = offset + len(data) - len(decoder.getstate()[0])
    return text + (f"\n[{size - end} bytes left; call again with offset {end}]" if end < size else "")
