"""The manifest's tables and their numbered migrations; what SQLite's errors mean to a store.

Knows SQL. Refuses to know what the rows mean to a search. A file of a newer version is refused before
anything is written to it; a migration runs in one transaction together with its version number.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from chains.retrieval.errors import StoreDamaged, StoreTooNew, StoreUnwritable

FILE_NAME = "manifest.sqlite3"

_V1 = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,      -- absolute path, or the id of a document that an app added
    origin TEXT NOT NULL,           -- 'file' or 'app'
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    content_hash BLOB NOT NULL,     -- blake2b-20 of the file's bytes
    stat TEXT NOT NULL,             -- size, mtime, ctime, inode: unchanged means not read again
    size INTEGER NOT NULL,          -- bytes
    modified REAL NOT NULL,         -- seconds since the epoch
    ingested REAL NOT NULL,
    metadata TEXT NOT NULL,         -- JSON
    text TEXT NOT NULL,             -- what offsets point into
    blocks TEXT NOT NULL,           -- JSON [[start, end, heading, page], …]: enough to cut the text anew
    text_hash BLOB NOT NULL,
    parser INTEGER NOT NULL
);
CREATE TABLE chunks(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chunk_id TEXT NOT NULL UNIQUE,
    source_id INTEGER NOT NULL REFERENCES sources(id),
    ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    title TEXT NOT NULL,
    heading TEXT NOT NULL,
    page INTEGER,
    text TEXT NOT NULL,
    vector_key BLOB NOT NULL,
    generation INTEGER NOT NULL
);
CREATE INDEX chunks_source ON chunks(source_id, ordinal);
CREATE INDEX chunks_vector ON chunks(vector_key);
CREATE INDEX chunks_generation ON chunks(generation);
-- Vectors are committed batch by batch before their document is visible: what no chunk names is staged work.
CREATE TABLE vectors(key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
CREATE TABLE removed(chunk INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX removed_generation ON removed(generation);
CREATE VIRTUAL TABLE passages USING fts5(title, heading, body, content='', tokenize='porter unicode61');
INSERT INTO meta VALUES ('generation', '0'), ('removed_floor', '0');
"""
# Version 1 looked at every vector after each ingest for those that no chunk names; these are the suspects.
_V2 = """
CREATE TABLE loose(key BLOB PRIMARY KEY) WITHOUT ROWID;
INSERT INTO loose SELECT key FROM vectors WHERE key NOT IN (SELECT vector_key FROM chunks);
-- What was noted of Chroma's files lacks what is asked for now: they are built anew.
DELETE FROM meta WHERE key LIKE 'chroma:%';
"""
MIGRATIONS: tuple[str, ...] = (_V1, _V2)
VERSION = len(MIGRATIONS)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Turns SQLite's and the file system's errors into StoreDamaged and StoreUnwritable."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translate(folder, error) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StoreUnwritable(
            f"expected to write to the store {str(folder)!r}, found {error.strerror!r}; "
            "free some space or give another folder with --store"
        ) from error


def _translate(folder: Path, error: sqlite3.DatabaseError) -> Exception:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreUnwritable(
            f"expected to use the store {str(folder)!r}, found {str(error)!r} ({name}); what was "
            "committed is kept: free some space or check the folder's permissions, then try again"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in str(error):
        return StoreDamaged(
            f"expected a readable manifest in {str(folder)!r}, found {str(error)!r}; "
            "run `agent docs verify --repair` to save what can be read"
        )
    return error


def migrate(folder: Path, connection: sqlite3.Connection) -> None:
    """Brings a manifest up to today's version; raises StoreTooNew where it is beyond that."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise StoreTooNew(
            f"expected a store of version {VERSION} or older in {str(folder)!r}, found version {found!r}; "
            "update mistral-agent-toolkit, or give another folder with --store"
        )
    for number in range(found, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated while this one waited for the lock.
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) == number:
                for statement in _statements(MIGRATIONS[number]):
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
    held = ""
    for line in script.splitlines(keepends=True):
        held += line
        if sqlite3.complete_statement(held):
            yield held
            held = ""
