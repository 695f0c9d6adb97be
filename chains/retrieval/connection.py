"""Opens the manifest's SQLite file: to write where that is possible, else to read.

Knows file modes and disks. Refuses to know tables. SQLite in WAL mode wants 32 KiB beside the file before it
reads a row; on a full disk, in a folder or on a mount that cannot be written, a file whose log is empty is
read as it lies instead. Nobody then tells a reader of a writer: it looks at the file's times, and opens it
again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from chains.retrieval.errors import StoreDamaged
from chains.retrieval.schema import FILE_NAME, migrate, translated

logger = logging.getLogger(__name__)

_OPTIONS: dict[str, Any] = {"check_same_thread": False, "isolation_level": None, "timeout": 30.0}
# How SQLite says that there is no room, or no permission, for what it puts beside the file.
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_SHM", "SQLITE_IOERR_WRITE", "SQLITE_CANTOPEN", "SQLITE_READONLY")


class ReadOnly(sqlite3.Connection):
    """A connection that cannot write; `seen` is the state of a file that is read as it lies, else None."""

    path = Path()
    seen: tuple[int, ...] | None = None

    @property
    def stale(self) -> bool:
        """Whether somebody wrote to the file since it was opened, unseen by this connection."""
        return self.seen is not None and self.seen != _state(self.path)


def connect(folder: Path, *, create: bool = True) -> sqlite3.Connection:
    """Opens (and creates or migrates) the manifest in `folder`; a `ReadOnly` where it cannot be written.

    Raises:
        StoreTooNew: its version is newer than this package's; nothing was touched.
        StoreDamaged: it is no manifest.
        StoreUnwritable: it cannot be created, or cannot even be read without writing.
    """
    path = folder / FILE_NAME
    with translated(folder):
        if create and not path.exists():
            _refuse_orphans(folder)
            folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _writable(path):
            return _ready(folder, _reading(path))
        try:
            return _ready(folder, _writing(path))
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_NO_ROOM) or not _size(path):
                raise
            connection = _ready(folder, _reading(path))
            logger.warning(
                "the store %r is open for reading only: %s (%s); free some space to write to it",
                *(str(folder), error, error.sqlite_errorname),
            )
            return connection


def _ready(folder: Path, connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        # What SQLite has for ASCII only, or not at all, as filters need it.
        connection.create_function("lowered", 1, _lowered, deterministic=True)
        connection.create_function("base_name", 1, os.path.basename, deterministic=True)
        if not isinstance(connection, ReadOnly):
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-32768")
        migrate(folder, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _writing(path: Path) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(path, **_OPTIONS)
    return connection


def _reading(path: Path) -> ReadOnly:
    seen = _state(path)
    # A log that holds something is read with the memory that its writer left beside it.
    logged = seen[-1] > 0
    mode = "mode=ro" if logged else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, factory=ReadOnly, **_OPTIONS)
    connection.path = path
    connection.seen = None if logged else seen
    return connection


def _state(path: Path) -> tuple[int, ...]:
    """Inode, bytes and time of change of the file, and the bytes in its log; zeros where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns, _size(path.with_name(path.name + "-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _lowered(value: object) -> str | None:
    return None if value is None else str(value).lower()


def _refuse_orphans(folder: Path) -> None:
    if (folder / "chroma").exists():
        raise StoreDamaged(
            f"expected {FILE_NAME!r} beside the index in {str(folder)!r}, found the index alone, which "
            f"holds no text; delete {str(folder / 'chroma')!r} and ingest again"
        )
