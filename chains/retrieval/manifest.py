"""The manifest: one SQLite file that holds everything a store knows.

`Manifest` keeps sources, texts, chunks, vectors and the full-text index. A document appears, changes and
disappears in one transaction that raises the generation; vectors may be committed earlier, when no chunk
refers to them yet. Indexes are built from the manifest and can be deleted at any time. The tables are in
`schema.sql` and the numbered `migration_N.sql` next to it.

The file opens read-only if it cannot be written: SQLite in WAL mode needs 32 KiB for a shared-memory file
before it reads a row, so on a full disk or a read-only mount a file with an empty log is opened as immutable.
Such a connection does not notice a writer by itself. It compares the file's times and opens the file again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.document import Chunk, ChunkRecord, LineBox, ParsedDocument, SourceFile, SourceRecord
from chains.retrieval.errors import StoreDamaged, StoreLocked, StoreTooNew, StoreUnwritable
from chains.retrieval.index import Changes

logger = logging.getLogger(__name__)

FILE_NAME = "manifest.sqlite3"
MIGRATIONS = ("schema.sql", "migration_2.sql", "migration_3.sql")
VERSION = len(MIGRATIONS)
# Raised when the output of a parser changes. Files that an older parser read are then read again.
PARSER_VERSION = 3
# Texts that an app adds have an id instead of a file; this prefix keeps ids and paths apart.
APP_PREFIX = "app:"
# An index that is more removals than this behind starts over.
_REMOVED_KEPT = 50_000
# Values in one SQL statement.
_BATCH = 500
# FTS5's unicode61 takes a run of Chinese or Japanese characters for one word; with spaces around it, each
# character is a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


# Errors -----------------------------------------------------------------------------------------------------

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def store_errors(folder: Path) -> Iterator[None]:
    """Raise errors of SQLite and the file system as StoreDamaged or StoreUnwritable."""
    try:
        yield
    except sqlite3.DatabaseError as error:
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


def _store_error(folder: Path, error: sqlite3.DatabaseError) -> Exception:
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


# The writer lock --------------------------------------------------------------------------------------------


class WriterLock:
    """The right to write to the store in `folder`. Threads wait for each other; processes are refused.

    The lock is the kernel's (`flock`), so it is released when its process ends, however that happens. The
    lock file's content only tells other processes who holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "writer.lock"
        self._threads = threading.RLock()
        self._depth = 0
        self._handle: int | None = None

    @contextlib.contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Hold the lock; raise StoreLocked with the holder's pid if another process has it."""
        with self._threads:
            if self._depth == 0:
                self._acquire(purpose)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._release()

    def holder(self) -> dict[str, object]:
        """Return what the last holder wrote (pid, host, purpose, since), or {} if it cannot be read."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _acquire(self, purpose: str) -> None:
        with store_errors(self.path.parent):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreLocked(
                f"expected the store {str(self.path.parent)!r} to be free for {purpose!r}, found "
                f"{self._describe_holder()} writing to it; wait for it to end, then try again"
            ) from None
        record = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": time.time()}
        try:
            with store_errors(self.path.parent):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(record).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _describe_holder(self) -> str:
        # A holder has the lock some moments before it has written who it is.
        for _ in range(20):
            if found := self.holder():
                return f"process {found.get('pid')!r} on {found.get('host')!r} ({found.get('purpose')})"
            time.sleep(0.01)
        return "another process"

    def _release(self) -> None:
        if self._handle is not None:
            # The file stays. If it were deleted, a third process could lock a file that is no longer there.
            os.close(self._handle)
            self._handle = None


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
    if (folder / "chroma").exists():
        raise StoreDamaged(
            f"expected {FILE_NAME!r} next to the index in {str(folder)!r}, found the index alone, which "
            f"holds no text; delete {str(folder / 'chroma')!r} and ingest again"
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


# The manifest -----------------------------------------------------------------------------------------------


def full_text(text: str) -> str:
    """Return `text` as the full-text index reads it, both when indexing and when searching."""
    return _UNSPACED.sub(r" \1 ", text)


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(values), _BATCH):
        yield values[first : first + _BATCH]


def _marks(values: Sequence[Any]) -> str:
    """Return one SQL placeholder for each value, separated by commas."""
    return ",".join("?" * len(values))


class Manifest:
    """One open manifest. Its methods may be called from any thread; they run one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._connection = connect(folder)
        self.store_id = self.meta("store_id") or ""

    def close(self) -> None:
        """Close the file. A closed manifest cannot be used again."""
        with self._lock:
            self._connection.close()

    # Statements and transactions

    @property
    def read_only(self) -> bool:
        """Whether the store cannot be written: its permissions, or a full disk when it was opened."""
        return isinstance(self._connection, ReadOnlyConnection)

    def reopen(self) -> None:
        """Open the file again if it was read-only, since it may be writable by now."""
        with self._lock:
            if self.read_only:
                self._connection.close()
                self._connection = connect(self.folder)

    def _stale(self) -> bool:
        connection = self._connection
        return (
            isinstance(connection, ReadOnlyConnection) and not connection.in_transaction and connection.stale
        )

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and return all its rows; raises this package's errors."""
        with self._lock, store_errors(self.folder):
            if self._stale():
                self.reopen()
            rows = self._connection.execute(sql, values).fetchall()
            # Rows that were read during a write are read again.
            return self.execute(sql, values) if self._stale() else rows

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside at its end, or nothing; transactions may nest."""
        with self._lock, store_errors(self.folder):
            if self._connection.in_transaction:
                yield
                return
            if self._stale():
                self.reopen()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    # Settings and generation

    def meta(self, key: str) -> str | None:
        """Return a recorded setting, or None."""
        rows = self.execute("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_meta(self, **values: object) -> None:
        """Record settings in one transaction."""
        with self.transaction():
            for key, value in values.items():
                self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def delete_meta(self, *keys: str) -> None:
        """Delete recorded settings."""
        self.execute(f"DELETE FROM meta WHERE key IN ({_marks(keys)})", keys)

    @property
    def generation(self) -> int:
        """A number that rises with every change that a search can see."""
        return int(self.meta("generation") or 0)

    def _next_generation(self) -> int:
        generation = self.generation + 1
        self.set_meta(generation=generation)
        return generation

    # Sources and their texts

    def sources(self, where: str = "1", values: Sequence[Any] = ()) -> list[SourceRecord]:
        """Return the sources that an SQL condition over `sources` selects (by default all), by path."""
        sql = (
            "SELECT path, origin, kind, sources.title, size, modified, ingested, "
            "(SELECT count(*) FROM chunks WHERE source_id = sources.id), content_hash, stat, parser, partly, "
            f"metadata FROM sources WHERE {where} ORDER BY path"
        )
        names = "path origin kind title size modified ingested chunks content_hash stat parser partly".split()
        return [
            SourceRecord(**dict(zip(names, row[:-1], strict=True)), metadata=json.loads(row[-1]))
            for row in self.execute(sql, values)
        ]

    def sources_at(self, paths: Iterable[str], folders: Iterable[str] = ()) -> dict[str, SourceRecord]:
        """Return the sources at these paths and under these folders, without reading the others."""
        found = [
            record
            for batch in _batches(list(paths))
            for record in self.sources(f"path IN ({_marks(batch)})", batch)
        ]
        for folder in folders:
            root = folder.rstrip("/")
            # "0" follows "/" in ASCII, so this range of the index on paths is what lies under the folder.
            found += self.sources("path >= ? AND path < ?", (f"{root}/", f"{root}0"))
        return {record.path: record for record in found}

    def content_hash(self, path: str) -> bytes:
        """Return the hash of a source's bytes, or b"" if there is no such source."""
        rows = self.execute("SELECT content_hash FROM sources WHERE path = ?", (path,))
        return bytes(rows[0][0]) if rows else b""

    def document(self, path: str) -> ParsedDocument | None:
        """Return a source as its parser delivered it, or None if there is no such source."""
        sql = "SELECT text, title, kind, blocks, metadata, partly FROM sources WHERE path = ?"
        for text, title, kind, blocks, metadata, partly in self.execute(sql, (path,)):
            # A line that ends one chunk and starts the next is in both.
            boxes = {box for chunk in self.chunks_of(path) for box in chunk.boxes}
            return ParsedDocument.from_payload(
                {
                    "text": text,
                    "title": title,
                    "kind": kind,
                    "blocks": json.loads(blocks),
                    "metadata": json.loads(metadata),
                    "partly": partly,
                    "boxes": boxes,
                }
            )
        return None

    def text(self, path: str, start: int = 0, end: int | None = None) -> str | None:
        """Return a span of a source's stored text in characters, or None if there is no such source."""
        rows = self.execute("SELECT text FROM sources WHERE path = ?", (path,))
        return str(rows[0][0])[start:end] if rows else None

    def characters(self) -> int:
        """Return the length of all stored texts together."""
        return int(self.execute("SELECT coalesce(sum(length(text)), 0) FROM sources")[0][0])

    # Chunks

    def _chunks(self, where: str, values: Sequence[Any]) -> list[ChunkRecord]:
        """Return the chunks that a condition over `chunks` and `sources` selects, by path and ordinal."""
        sql = (
            "SELECT chunks.id, chunk_id, path, origin, kind, ordinal, start, end, chunks.title, heading, "
            "page, chunks.text, modified, metadata, place, boxes "
            f"FROM chunks JOIN sources ON sources.id = source_id WHERE {where} ORDER BY path, ordinal"
        )
        names = "row chunk_id source origin kind ordinal start end title heading page text modified".split()
        return [
            ChunkRecord(
                **dict(zip(names, row[:-3], strict=True)),
                metadata=json.loads(row[-3]),
                place=json.loads(row[-2] or "{}"),
                boxes=tuple(LineBox(*box) for box in json.loads(row[-1] or "[]")),
            )
            for row in self.execute(sql, values)
        ]

    def chunks_of(self, path: str, first: int = 0, last: int = sys.maxsize) -> list[ChunkRecord]:
        """Return the chunks of a source with ordinals from `first` to `last`, both included."""
        return self._chunks("path = ? AND ordinal BETWEEN ? AND ?", (path, first, last))

    def chunks_by_id(self, ids: Sequence[str]) -> list[ChunkRecord]:
        """Return the chunks with these chunk ids; ids that do not exist are skipped."""
        return self._chunks(f"chunk_id IN ({_marks(ids)})", list(ids))

    def chunks_by_row(self, rows: Sequence[int]) -> dict[int, ChunkRecord]:
        """Return the chunks of these rows; rows that are gone are skipped."""
        found: dict[int, ChunkRecord] = {}
        for batch in _batches(rows):
            chunks = self._chunks(f"chunks.id IN ({_marks(batch)})", batch)
            found.update((chunk.row, chunk) for chunk in chunks)
        return found

    @property
    def empty(self) -> bool:
        """Whether no chunk is visible."""
        return not self.execute("SELECT 1 FROM chunks LIMIT 1")

    def count(self) -> int:
        """Return the number of visible chunks."""
        return int(self.execute("SELECT count(*) FROM chunks")[0][0])

    def sample(self, total: int, wanted: int, until: int) -> list[int]:
        """Return up to `wanted` chunk rows, spread evenly over the `total` added by generation `until`."""
        sql = "SELECT id FROM chunks WHERE id % ? = 0 AND generation <= ? ORDER BY id LIMIT ?"
        step = max(1, total // max(wanted, 1))
        return [row[0] for row in self.execute(sql, (step, until, wanted))]

    def keyword_scores(
        self, match: str, weights: Sequence[float], limit: int, among: Sequence[int] | None = None
    ) -> dict[int, float]:
        """Return the BM25 scores of the best `limit` chunk rows for an FTS5 query, best first.

        Args:
            match: An FTS5 query.
            weights: Factors for the term frequencies in title, heading and body. BM25 is that of SQLite's
                FTS5 (k1 = 1.2, b = 0.75), negated so that higher is better.
            limit: How many rows to return.
            among: If given, only these rows are considered.
        """
        columns = ", ".join(str(float(weight)) for weight in weights)
        # The plus keeps SQLite from querying the full-text index once for each row.
        only = "" if among is None else "AND +rowid IN (SELECT value FROM json_each(?)) "
        sql = (
            f"SELECT rowid, -bm25(passages, {columns}) AS score FROM passages WHERE passages MATCH ? {only}"
            "ORDER BY score DESC, rowid LIMIT ?"
        )
        values = (match, limit) if among is None else (match, json.dumps(list(among)), limit)
        return {int(row): float(score) for row, score in self.execute(sql, values)}

    # Vectors, and what changed since an index was built

    def missing_vectors(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of `keys` that have no vector yet."""
        missing = set(keys)
        for batch in _batches(list(missing)):
            rows = self.execute(f"SELECT key FROM vectors WHERE key IN ({_marks(batch)})", batch)
            missing.difference_update(row[0] for row in rows)
        return missing

    def vectors(self, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """Return the vectors of chunk rows, each float32 [dimension]."""
        found: dict[int, NDArray[np.float32]] = {}
        for batch in _batches(rows):
            sql = (
                "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key "
                f"WHERE chunks.id IN ({_marks(batch)})"
            )
            for row, blob in self.execute(sql, batch):
                found[row] = np.frombuffer(blob, dtype=np.float32)
        return found

    def count_changes(self, since: int) -> int:
        """Return how many rows were added or removed after generation `since`; `sys.maxsize` if unknown."""
        if since < int(self.meta("removed_floor") or 0):
            return sys.maxsize
        sql = (
            "SELECT (SELECT count(*) FROM chunks WHERE generation > ?1) "
            "+ (SELECT count(*) FROM removed WHERE generation > ?1)"
        )
        return int(self.execute(sql, (since,))[0][0])

    def changes(self, since: int) -> Changes:
        """Return what was added and removed after generation `since`; -1 returns every chunk."""
        with self.transaction():
            generation = self.generation
            full = since < int(self.meta("removed_floor") or 0) or since < 0
            floor = -1 if full else since
            removed = [] if full else self.execute("SELECT chunk FROM removed WHERE generation > ?", (since,))
            rows, vectors = self._added(floor)
        return Changes(
            generation=generation,
            full=full,
            removed=[row[0] for row in removed],
            added=rows,
            vectors=vectors,
        )

    def _added(self, since: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows added after generation `since` and their vectors, read row by row."""
        count = int(self.execute("SELECT count(*) FROM chunks WHERE generation > ?", (since,))[0][0])
        rows, vectors = np.zeros(count, np.int64), np.zeros((0, 0), np.float32)
        sql = (
            "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key WHERE generation > ? "
            "ORDER BY chunks.id"
        )
        place = 0
        with store_errors(self.folder):
            for row, blob in self._connection.execute(sql, (since,)):
                vector = np.frombuffer(blob, dtype=np.float32)
                if not place:
                    vectors = np.empty((count, len(vector)), np.float32)
                rows[place], vectors[place] = row, vector
                place += 1
        return rows[:place], vectors[:place]

    def put_vectors(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Commit vectors, float32 [len(keys), dimension]. They become visible with their document."""
        with self.transaction():
            rows = [(key, row.tobytes()) for key, row in zip(keys, vectors, strict=True)]
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._connection.executemany("INSERT OR IGNORE INTO loose VALUES (?)", [(key,) for key in keys])

    def delete_unused_vectors(self, *, check_all: bool = False) -> None:
        """Delete vectors that no chunk refers to, and records of removals too old to matter.

        Only vectors that were added, or lost a chunk, since the last call are checked, so the cost depends on
        the changes and not on the size of the store. `check_all` checks every vector.
        """
        with self.transaction():
            if check_all:
                self.execute("INSERT OR IGNORE INTO loose SELECT key FROM vectors")
            self.execute(
                "DELETE FROM vectors WHERE key IN (SELECT key FROM loose) "
                "AND NOT EXISTS (SELECT 1 FROM chunks WHERE vector_key = vectors.key)"
            )
            self.execute("DELETE FROM loose")
            sql = "SELECT generation FROM removed ORDER BY generation DESC LIMIT 1 OFFSET ?"
            if rows := self.execute(sql, (_REMOVED_KEPT,)):
                self.set_meta(removed_floor=rows[0][0])
                self.execute("DELETE FROM removed WHERE generation <= ?", (rows[0][0],))

    def forget_removals(self) -> None:
        """Make every index start over, because the vectors now have another dimension."""
        with self.transaction():
            self.set_meta(removed_floor=self.generation)
            self.execute("DELETE FROM removed")

    # Writing documents

    def put_document(
        self, source: SourceFile, document: ParsedDocument, chunks: Sequence[Chunk], keys: Sequence[bytes]
    ) -> None:
        """Make a document visible, replacing what its path held; its vectors must be stored already."""
        with self.transaction():
            generation = self._next_generation()
            self._remove(source.path, generation)
            number = self._insert_source(source, document)
            self._insert_chunks(source.path, source.origin, number, chunks, keys, generation)

    def replace_chunks(self, path: str, chunks: Sequence[Chunk], keys: Sequence[bytes]) -> None:
        """Replace the chunks of a stored document; the new chunks' vectors must be stored already."""
        with self.transaction():
            rows = self.execute("SELECT id, origin FROM sources WHERE path = ?", (path,))
            generation = self._next_generation()
            self._remove_chunks(rows[0][0], generation)
            self._insert_chunks(path, rows[0][1], rows[0][0], chunks, keys, generation)

    def _insert_source(self, source: SourceFile, document: ParsedDocument) -> int:
        text_hash = hashlib.blake2b(document.text.encode(), digest_size=20).digest()
        blocks = json.dumps(document.to_payload()["blocks"])
        values = (
            *(source.path, source.origin, document.kind, document.title, source.content_hash, source.stat),
            *(source.size, source.modified, time.time(), json.dumps(dict(document.metadata), default=str)),
            *(document.text, blocks, text_hash, PARSER_VERSION, document.partly),
        )
        sql = (
            "INSERT INTO sources(path, origin, kind, title, content_hash, stat, size, modified, ingested, "
            f"metadata, text, blocks, text_hash, parser, partly) VALUES ({_marks(values)}) RETURNING id"
        )
        return int(self.execute(sql, values)[0][0])

    def _insert_chunks(
        self,
        path: str,
        origin: str,
        source: int,
        chunks: Sequence[Chunk],
        keys: Sequence[bytes],
        generation: int,
    ) -> None:
        for chunk, key in zip(chunks, keys, strict=True):
            chunk_id = path.removeprefix(APP_PREFIX) if origin == "app" else _chunk_id(path, chunk)
            values = (
                *(chunk_id, source, chunk.ordinal, chunk.start, chunk.end, chunk.title, chunk.heading),
                *(chunk.page, chunk.text, key, generation, _json(chunk.place), _json(chunk.boxes)),
            )
            sql = (
                "INSERT INTO chunks(chunk_id, source_id, ordinal, start, end, title, heading, page, text, "
                f"vector_key, generation, place, boxes) VALUES ({_marks(values)}) RETURNING id"
            )
            row = int(self.execute(sql, values)[0][0])
            self._index_text("", row, chunk.title, chunk.heading, chunk.text)

    def _index_text(self, command: str, row: int, title: str, heading: str, text: str) -> None:
        """Add a chunk to the full-text index, or remove it with "delete", for which FTS5 needs its texts."""
        values = (full_text(title), full_text(heading), full_text(text))
        if command:
            sql = "INSERT INTO passages(passages, rowid, title, heading, body) VALUES (?, ?, ?, ?, ?)"
            self.execute(sql, (command, row, *values))
        else:
            sql = "INSERT INTO passages(rowid, title, heading, body) VALUES (?, ?, ?, ?)"
            self.execute(sql, (row, *values))

    def rebuild_full_text(self) -> None:
        """Rebuild the full-text index from the stored chunks."""
        with self.transaction():
            self.execute("INSERT INTO passages(passages) VALUES ('delete-all')")
            for row, title, heading, text in self.execute("SELECT id, title, heading, text FROM chunks"):
                self._index_text("", row, title, heading, text)

    def update_stat(self, path: str, stat: str, modified: float) -> None:
        """Record a file's new times when its content is what is stored."""
        self.execute("UPDATE sources SET stat = ?, modified = ? WHERE path = ?", (stat, modified, path))

    def remove(self, paths: Iterable[str]) -> list[str]:
        """Remove sources in one transaction; return those that existed."""
        with self.transaction():
            present = [p for p in paths if self.execute("SELECT 1 FROM sources WHERE path = ?", (p,))]
            if present:
                generation = self._next_generation()
                for path in present:
                    self._remove(path, generation)
            return present

    def _remove(self, path: str, generation: int) -> None:
        found = self.execute("SELECT id FROM sources WHERE path = ?", (path,))
        if not found:
            return
        self._remove_chunks(found[0][0], generation)
        self.execute("DELETE FROM sources WHERE id = ?", (found[0][0],))

    def _remove_chunks(self, source: int, generation: int) -> None:
        sql = "SELECT id, title, heading, text FROM chunks WHERE source_id = ?"
        for row, title, heading, text in self.execute(sql, (source,)):
            self._index_text("delete", row, title, heading, text)
            self.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", (row, generation))
        self.execute(
            "INSERT OR IGNORE INTO loose SELECT vector_key FROM chunks WHERE source_id = ?", (source,)
        )
        self.execute("DELETE FROM chunks WHERE source_id = ?", (source,))


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return compact JSON, or "" for an empty value."""
    return json.dumps(value, separators=(",", ":"), default=dict) if value else ""


def _chunk_id(path: str, chunk: Chunk) -> str:
    """Return an id that is the same for the same passage of the same file in every store."""
    digest = hashlib.blake2b(path.encode(), digest_size=12, person=b"chunk-id")
    digest.update(f"\0{chunk.start}\0{chunk.end}\0{chunk.text}".encode())
    return digest.hexdigest()
