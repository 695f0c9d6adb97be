"""Files that the user names on the command line: read whole, written never over another one."""

from __future__ import annotations

from pathlib import Path

from agent.errors import RequestError

MAX_BYTES = 10 * 2**20


def read_text(path: str) -> str:
    """The text of a file; raises RequestError where it cannot be read as UTF-8 text of a sensible size."""
    try:
        file = Path(path).expanduser()
        if not file.is_file():
            raise RequestError(f"expected a file, found none at {path!r}; check the path")
        if file.stat().st_size > MAX_BYTES:
            raise RequestError(
                f"expected at most {MAX_BYTES:,} bytes, found {file.stat().st_size:,} in {path!r}"
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"expected UTF-8 text in {path!r}, found {error.reason}; ingest it instead"
        ) from error
    except OSError as error:
        raise RequestError(f"expected a file that can be read at {path!r}, found {error.strerror}") from error


def write_new(path: str, text: str, *, force: bool = False) -> None:
    """Write a file that is not there yet, or with `force` over one that is; raises RequestError."""
    file = Path(path).expanduser()
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text if text.endswith("\n") else text + "\n")
    except FileExistsError as error:
        raise RequestError(
            f"expected no file at {path!r}, found one; name another, or pass --force"
        ) from error
    except OSError as error:
        raise RequestError(
            f"expected a file that can be written at {path!r}, found {error.strerror}"
        ) from error
