"""Opens the manifest's SQLite file, brings it up to the current version, and names its errors.

The tables are in `schema.sql` and the numbered `migration_N.sql` next to it. The file opens read-only if it
cannot be written: SQLite in WAL mode needs 32 KiB for a shared-memory file before it reads a row, so on a
full disk or a read-only mount a file with an empty log is opened as immutable. Such a connection does not
notice a writer by itself. It compares the file's times and opens the file again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chains.retrieval.errors import StoreClosed, StoreDamaged, StoreTooNew, StoreUnwritable

logger = logging.getLogger(__name__)

FILE_NAME = "manifest.sqlite3"
MIGRATIONS = ("schema.sql", "migration_2.sql", "migration_3.sql", "migration_4.sql")
VERSION = len(MIGRATIONS)
# The folder of a store that is kept in memory, as SQLite names it.
MEMORY = Path(":memory:")

# Errors -----------------------------------------------------------------------------------------------------

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def store_errors(folder: Path) -> Iterator[None]:
    """Raise errors of SQLite and the file system as StoreDamaged or StoreUnwritable."""
    try:
        yield
    except sqlite3.Error as error:
        raise _store_error(folder, error) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreUnwritable(
            f"expected a folder for the store at {str(folder)!r}, found a file; use another path"
        ) from error
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise StoreUnwritable(
            f"expected to write to the store {str(folder)!r}, found {error.strerror!r}; "
            "free some space or use another folder"
        ) from error


def _store_error(folder: Path, error: sqlite3.Error) -> Exception:
    if "closed database" in str(error):
        return StoreClosed(
            f"expected the store at {str(folder)!r} to be open, found it closed; open it again with "
            "`DocumentStore(path)`"
        )
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreUnwritable(
            f"expected to use the store {str(folder)!r}, found {str(error)!r} ({name}); what was "
            "committed is kept: free some space or check the folder's permissions, then try again"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in str(error):
        return StoreDamaged(
            f"expected a readable manifest in {str(folder)!r}, found {str(error)!r}; "
            "call `DocumentStore.repair(path)` to save what can be read",
            hint="DocumentStore.repair(path)",
        )
    return error


# Opening the file -------------------------------------------------------------------------------------------

_OPTIONS: dict[str, Any] = {"check_same_thread": False, "isolation_level": None, "timeout": 30.0}
# SQLite's errors when there is no space, or no permission, for the files it creates next to the database.
_NO_SPACE = ("SQLITE_FULL", "SQLITE_IOERR_SHM", "SQLITE_IOERR_WRITE", "SQLITE_CANTOPEN", "SQLITE_READONLY")


class ReadOnlyConnection(sqlite3.Connection):
    """A connection that cannot write.

    `state` is the file's state when it was opened as immutable, or None if SQLite keeps the connection up to
    date itself.
    """

    path = Path()
    state: tuple[int, ...] | None = None

    @property
    def stale(self) -> bool:
        """Whether the file was written since it was opened, which this connection cannot see."""
        return self.state is not None and self.state != _file_state(self.path)


def connect(folder: Path, *, create: bool = True) -> sqlite3.Connection:
    """Open (and create or migrate) the manifest in `folder`; read-only if it cannot be written.

    Raises:
        StoreTooNew: The manifest was written by a newer version of this package. Nothing was changed.
        StoreDamaged: The file is not a manifest.
        StoreUnwritable: The file cannot be created, or cannot even be read without writing.
    """
    if folder == MEMORY:
        return _prepared(folder, sqlite3.connect(":memory:", **_OPTIONS))
    path = folder / FILE_NAME
    with store_errors(folder):
        if create and not path.exists():
            _refuse_index_without_manifest(folder)
            folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _writable(path):
            return _prepared(folder, _open_read_only(path))
        try:
            return _prepared(folder, sqlite3.connect(path, **_OPTIONS))
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_NO_SPACE) or not _file_size(path):
                raise
            connection = _prepared(folder, _open_read_only(path))
            logger.warning(
                "the store %r is open for reading only: %s (%s); free some space to write to it",
                *(str(folder), error, error.sqlite_errorname),
            )
            return connection


def _prepared(folder: Path, connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        # Filters need these two: SQLite's own lower() knows only ASCII, and it has no basename.
        connection.create_function("lowered", 1, _lowered, deterministic=True)
        connection.create_function("base_name", 1, os.path.basename, deterministic=True)
        if not isinstance(connection, ReadOnlyConnection):
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-32768")
        migrate(folder, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_read_only(path: Path) -> ReadOnlyConnection:
    state = _file_state(path)
    # If the log holds something, SQLite needs the shared-memory file that the writer left next to it.
    logged = state[-1] > 0
    mode = "mode=ro" if logged else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, uri=True, factory=ReadOnlyConnection, **_OPTIONS)
    connection.path = path
    connection.state = None if logged else state
    return connection


def _file_state(path: Path) -> tuple[int, ...]:
    """Return the file's inode, size and mtime, and the size of its log; zeros if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns, _file_size(path.with_name(path.name + "-wal"))


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _lowered(value: object) -> str | None:
    return None if value is None else str(value).lower()


def _refuse_index_without_manifest(folder: Path) -> None:
    for index in (folder / "index", folder / "chroma"):
        if index.exists():
            raise StoreDamaged(
                f"expected {FILE_NAME!r} next to the index in {str(folder)!r}, found the index alone, which "
                f"holds no text; delete {str(index)!r} and ingest again"
            )


def migrate(folder: Path, connection: sqlite3.Connection) -> None:
    """Bring a manifest up to the current version; raise StoreTooNew if it is newer than that.

    Each migration runs in one transaction together with its version number.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise StoreTooNew(
            f"expected a store of version {VERSION} or older in {str(folder)!r}, found version {found!r}; "
            "update mistral-agent-toolkit, or use another folder"
        )
    for number in range(found, VERSION):
        script = Path(__file__).with_name(MIGRATIONS[number]).read_text("utf-8")
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated the file while this one waited for the lock.
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) == number:
                for statement in _statements(script):
                    connection.execute(statement)
                if number == 0:
                    connection.execute("INSERT INTO meta VALUES ('store_id', ?)", (secrets.token_hex(8),))
                connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
