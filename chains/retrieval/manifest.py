"""The manifest's tables and their numbered migrations; what SQLite's errors mean to a store.

Knows SQL. Refuses to know what the rows mean to a search. A file of a newer version is refused before
anything is written to it; a migration runs in one transaction together with its version number.

Opens the manifest's SQLite file: to write where that is possible, else to read.

Knows file modes and disks. Refuses to know tables. SQLite in WAL mode wants 32 KiB beside the file before it
reads a row; on a full disk, in a folder or on a mount that cannot be written, a file whose log is empty is
read as it lies instead. Nobody then tells a reader of a writer: it looks at the file's times, and opens it
again.

One writer at a time: a lock file that names its holder.

Knows files and process ids. The lock is the kernel's (`flock`), so that it falls with its process, however
that ends; the file's content only tells others who holds it.

Reading the manifest: settings, sources, chunks, vectors, changes and keyword hits.

Knows rows and transactions. Refuses to change anything (manifest.py does), and to know files, models and
nearest neighbours.

The truth of a store: sources, texts, chunks, vectors and their full-text index in one SQLite file.

Knows rows and transactions. Refuses to know files, models and nearest neighbours. A document appears, changes
and vanishes in one transaction that raises the generation; vectors may be committed earlier, where nothing
can see them.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.document import Chunk, ChunkRecord, FileFacts, ParsedDocument, SourceRecord
from chains.retrieval.errors import StoreDamaged, StoreLocked, StoreTooNew, StoreUnwritable
from chains.retrieval.index import Changes

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


class WriterLock:
    """The right to write to the store in `folder`: threads wait for each other, processes are refused."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "writer.lock"
        self._threads = threading.RLock()
        self._depth = 0
        self._handle: int | None = None

    @contextlib.contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Holds the lock; raises StoreLocked with the holder's pid where another process has it."""
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
        """What the last holder wrote: pid, host, purpose, since; empty where nothing readable is there."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _acquire(self, purpose: str) -> None:
        with translated(self.path.parent):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            holder = self.holder()
            raise StoreLocked(
                f"expected the store {str(self.path.parent)!r} to be free for {purpose!r}, found process "
                f"{holder.get('pid', 'unknown')!r} on {holder.get('host', 'this machine')!r} writing to it "
                f"({holder.get('purpose', 'unknown')}); wait for it to end, then try again"
            ) from None
        record = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": time.time()}
        try:
            with translated(self.path.parent):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(record).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _release(self) -> None:
        if self._handle is not None:
            # The file stays: removing it would let a third process lock a file that is no longer there.
            os.close(self._handle)
            self._handle = None


# FTS5's unicode61 takes a run of Chinese or Japanese for one word; spaces make each character one.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
_SLICE = 500


def keyword_text(text: str) -> str:
    """`text` as the full-text index reads it, at indexing and at asking."""
    return _UNSPACED.sub(r" \1 ", text)


def slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Parts of a sequence that fit one SQL statement's parameters."""
    for first in range(0, len(items), _SLICE):
        yield items[first : first + _SLICE]


def marks(items: Sequence[Any]) -> str:
    """As many question marks as there are items."""
    return ",".join("?" * len(items))


class ManifestReader:
    """The reading half of one open manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._connection = connect(folder)
        self.store_id = self.meta("store_id") or ""

    def close(self) -> None:
        """Closes the file; a store that is closed cannot be used again."""
        with self._lock:
            self._connection.close()

    @property
    def read_only(self) -> bool:
        """Whether the store cannot be written: by its permissions, or for want of room when it was opened."""
        return isinstance(self._connection, ReadOnly)

    def reopen(self) -> None:
        """Opens the file again where it was open for reading only: by now it may be writable."""
        with self._lock:
            if self.read_only:
                self._connection.close()
                self._connection = connect(self.folder)

    def _stale(self) -> bool:
        """Whether the file was changed behind a connection that cannot see it."""
        connection = self._connection
        return isinstance(connection, ReadOnly) and not connection.in_transaction and connection.stale

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one statement; raises this room's errors."""
        with self._lock, translated(self.folder):
            if self._stale():
                self.reopen()
            rows = self._connection.execute(sql, values).fetchall()
            # What was read while somebody wrote is read again.
            return self.execute(sql, values) if self._stale() else rows

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed at its end, or nothing; transactions may nest."""
        with self._lock, translated(self.folder):
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

    # meta -----------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """A recorded setting, or None."""
        rows = self.execute("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_meta(self, **values: object) -> None:
        """Records settings in one transaction."""
        with self.transaction():
            for key, value in values.items():
                self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    @property
    def generation(self) -> int:
        """Rises with every change that a search can see."""
        return int(self.meta("generation") or 0)

    def missing_vectors(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` that have no vector yet."""
        missing = set(keys)
        for part in slices(list(missing)):
            rows = self.execute(f"SELECT key FROM vectors WHERE key IN ({marks(part)})", part)
            missing.difference_update(row[0] for row in rows)
        return missing

    def vectors_of(self, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The vectors of chunk rows, float32 [dimension] each."""
        found: dict[int, NDArray[np.float32]] = {}
        for part in slices(rows):
            sql = (
                "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key "
                f"WHERE chunks.id IN ({marks(part)})"
            )
            for row, blob in self.execute(sql, part):
                found[row] = np.frombuffer(blob, dtype=np.float32)
        return found

    def lag(self, since: int) -> int:
        """How many rows came or went after generation `since`; beyond all bounds where that is forgotten."""
        if since < int(self.meta("removed_floor") or 0):
            return sys.maxsize
        sql = (
            "SELECT (SELECT count(*) FROM chunks WHERE generation > ?1) "
            "+ (SELECT count(*) FROM removed WHERE generation > ?1)"
        )
        return int(self.execute(sql, (since,))[0][0])

    def changes(self, since: int) -> Changes:
        """What was added and removed after generation `since` (-1: everything)."""
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
        """Rows that came after generation `since`, with their vectors: read one by one into one array."""
        count = int(self.execute("SELECT count(*) FROM chunks WHERE generation > ?", (since,))[0][0])
        rows, vectors = np.zeros(count, np.int64), np.zeros((0, 0), np.float32)
        sql = (
            "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key WHERE generation > ? "
            "ORDER BY chunks.id"
        )
        place = 0
        with translated(self.folder):
            for row, blob in self._connection.execute(sql, (since,)):
                vector = np.frombuffer(blob, dtype=np.float32)
                if not place:
                    vectors = np.empty((count, len(vector)), np.float32)
                rows[place], vectors[place] = row, vector
                place += 1
        return rows[:place], vectors[:place]

    def sources(self, where: str = "1", values: Sequence[Any] = ()) -> list[SourceRecord]:
        """The documents that an SQL condition over `sources` selects, every one by default, by path."""
        sql = (
            "SELECT path, origin, kind, sources.title, size, modified, ingested, "
            "(SELECT count(*) FROM chunks WHERE source_id = sources.id), content_hash, stat, parser, "
            f"metadata FROM sources WHERE {where} ORDER BY path"
        )
        names = "path origin kind title size modified ingested chunks content_hash stat parser".split()
        return [
            SourceRecord(**dict(zip(names, row[:-1], strict=True)), metadata=json.loads(row[-1]))
            for row in self.execute(sql, values)
        ]

    def sources_at(self, paths: Iterable[str], folders: Iterable[str] = ()) -> dict[str, SourceRecord]:
        """The documents at these paths and under these folders; the rest of the store is not read."""
        found = [
            record
            for part in slices(list(paths))
            for record in self.sources(f"path IN ({marks(part)})", part)
        ]
        for folder in folders:
            root = folder.rstrip("/")
            # "0" follows "/": the range holds what lies under the folder, in the order of the path's index.
            found += self.sources("path >= ? AND path < ?", (f"{root}/", f"{root}0"))
        return {record.path: record for record in found}

    def document(self, path: str) -> ParsedDocument | None:
        """A source as its parser gave it; None where there is no such source."""
        sql = "SELECT text, title, kind, blocks, metadata FROM sources WHERE path = ?"
        for text, title, kind, blocks, metadata in self.execute(sql, (path,)):
            return ParsedDocument.from_payload(
                {
                    "text": text,
                    "title": title,
                    "kind": kind,
                    "blocks": json.loads(blocks),
                    "metadata": json.loads(metadata),
                }
            )
        return None

    def text(self, path: str, start: int = 0, end: int | None = None) -> str | None:
        """A span of a source's stored text, offsets in characters; None where there is no such source."""
        rows = self.execute("SELECT text FROM sources WHERE path = ?", (path,))
        return str(rows[0][0])[start:end] if rows else None

    def chunks(self, where: str, values: Sequence[Any] = ()) -> list[ChunkRecord]:
        """The chunks that an SQL condition over `chunks` and `sources` selects, by path and place."""
        sql = (
            "SELECT chunks.id, chunk_id, path, origin, kind, ordinal, start, end, chunks.title, heading, "
            "page, chunks.text, modified, metadata FROM chunks JOIN sources ON sources.id = source_id "
            f"WHERE {where} ORDER BY path, ordinal"
        )
        names = "row chunk_id source origin kind ordinal start end title heading page text modified".split()
        return [
            ChunkRecord(**dict(zip(names, row[:-1], strict=True)), metadata=json.loads(row[-1]))
            for row in self.execute(sql, values)
        ]

    def chunks_by_row(self, rows: Sequence[int]) -> dict[int, ChunkRecord]:
        """The chunks of these rows; those that are gone are left out."""
        found: dict[int, ChunkRecord] = {}
        for part in slices(rows):
            found.update((c.row, c) for c in self.chunks(f"chunks.id IN ({marks(part)})", part))
        return found

    @property
    def empty(self) -> bool:
        """Whether no chunk is visible."""
        return not self.execute("SELECT 1 FROM chunks LIMIT 1")

    def count(self) -> int:
        """How many chunks are visible."""
        return int(self.execute("SELECT count(*) FROM chunks")[0][0])

    def keyword(
        self, match: str, weights: Sequence[float], limit: int, among: Sequence[int] | None = None
    ) -> list[tuple[int, float]]:
        """(row, BM25 score, higher is better) of the best `limit` chunks for an FTS5 query, best first.

        `weights` multiply the term frequencies in title, heading and body; BM25 as in SQLite's FTS5
        (k1 = 1.2, b = 0.75). `among` restricts the answer to these rows.
        """
        columns = ", ".join(str(float(weight)) for weight in weights)
        # The plus keeps SQLite from asking the full-text index once a row.
        only = "" if among is None else "AND +rowid IN (SELECT value FROM json_each(?)) "
        sql = (
            f"SELECT rowid, -bm25(passages, {columns}) AS score FROM passages WHERE passages MATCH ? {only}"
            "ORDER BY score DESC, rowid LIMIT ?"
        )
        values = (match, limit) if among is None else (match, json.dumps(list(among)), limit)
        return [(int(row), float(score)) for row, score in self.execute(sql, values)]


# Raised when a parser's output changes: files that an older one read are read again.
PARSER_VERSION = 2
# Documents that an app added have an id, not a file: this prefix keeps the two apart.
APP_PREFIX = "app:"
# How many removals a reader can catch up with; an index that is further behind starts over.
_REMOVED_KEPT = 50_000


class Manifest(ManifestReader):
    """One open manifest; its methods may be called from any thread, one at a time."""

    def _next_generation(self) -> int:
        generation = self.generation + 1
        self.set_meta(generation=generation)
        return generation

    # vectors --------------------------------------------------------------------------------------------

    def put_vectors(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Commits vectors, float32 [len(keys), dimension]; they become visible with their document."""
        with self.transaction():
            rows = [(key, row.tobytes()) for key, row in zip(keys, vectors, strict=True)]
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._connection.executemany("INSERT OR IGNORE INTO loose VALUES (?)", [(key,) for key in keys])

    def tidy(self, *, thorough: bool = False) -> int:
        """Forgets vectors that no chunk names any more, and removals too old to matter; returns how many.

        Only vectors that came or lost a chunk since the last call are looked at, so that the cost is that of
        the changes and not of the store; `thorough` looks at all.
        """
        with self.transaction():
            if thorough:
                self.execute("INSERT OR IGNORE INTO loose SELECT key FROM vectors")
            self.execute(
                "DELETE FROM vectors WHERE key IN (SELECT key FROM loose) "
                "AND NOT EXISTS (SELECT 1 FROM chunks WHERE vector_key = vectors.key)"
            )
            dropped = int(self.execute("SELECT changes()")[0][0])
            self.execute("DELETE FROM loose")
            self._trim_removed()
            return dropped

    # documents ------------------------------------------------------------------------------------------

    def put_document(
        self, facts: FileFacts, document: ParsedDocument, chunks: Sequence[Chunk], keys: Sequence[bytes]
    ) -> None:
        """Makes a document visible, in place of what its path held; its vectors must be there."""
        with self.transaction():
            generation = self._next_generation()
            self._remove(facts.path, generation)
            source = self._insert_source(facts, document)
            self._insert_chunks(facts.path, facts.origin, source, chunks, keys, generation)

    def _insert_source(self, facts: FileFacts, document: ParsedDocument) -> int:
        text_hash = hashlib.blake2b(document.text.encode(), digest_size=20).digest()
        blocks = json.dumps(document.to_payload()["blocks"])
        values = (
            *(facts.path, facts.origin, document.kind, document.title, facts.content_hash, facts.stat),
            *(facts.size, facts.modified, time.time(), json.dumps(dict(document.metadata), default=str)),
            *(document.text, blocks, text_hash, PARSER_VERSION),
        )
        sql = (
            "INSERT INTO sources(path, origin, kind, title, content_hash, stat, size, modified, ingested, "
            f"metadata, text, blocks, text_hash, parser) VALUES ({marks(values)}) RETURNING id"
        )
        return int(self.execute(sql, values)[0][0])

    def _insert_chunk(self, source: int, chunk: Chunk, chunk_id: str, key: bytes, generation: int) -> int:
        values = (
            *(
                chunk_id,
                source,
                chunk.ordinal,
                chunk.start,
                chunk.end,
                chunk.title,
                chunk.heading,
                chunk.page,
            ),
            *(chunk.text, key, generation),
        )
        sql = (
            "INSERT INTO chunks(chunk_id, source_id, ordinal, start, end, title, heading, page, text, "
            f"vector_key, generation) VALUES ({marks(values)}) RETURNING id"
        )
        return int(self.execute(sql, values)[0][0])

    def _index_words(self, command: str, row: int, title: str, heading: str, text: str) -> None:
        """Adds a chunk to the full-text index, or with "delete" takes it out by the words it went in with."""
        words = (keyword_text(title), keyword_text(heading), keyword_text(text))
        if command:
            sql = "INSERT INTO passages(passages, rowid, title, heading, body) VALUES (?, ?, ?, ?, ?)"
            self.execute(sql, (command, row, *words))
        else:
            self.execute(
                "INSERT INTO passages(rowid, title, heading, body) VALUES (?, ?, ?, ?)", (row, *words)
            )

    def replace_chunks(self, path: str, chunks: Sequence[Chunk], keys: Sequence[bytes]) -> None:
        """Cuts a stored document anew; its vectors must be there."""
        with self.transaction():
            rows = self.execute("SELECT id, origin FROM sources WHERE path = ?", (path,))
            generation = self._next_generation()
            self._remove_chunks(rows[0][0], generation)
            self._insert_chunks(path, rows[0][1], rows[0][0], chunks, keys, generation)

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
            if origin == "app":
                chunk_id = path.removeprefix(APP_PREFIX)
            else:
                chunk_id = _chunk_id(path, chunk)
            row = self._insert_chunk(source, chunk, chunk_id, key, generation)
            self._index_words("", row, chunk.title, chunk.heading, chunk.text)

    def rebuild_words(self) -> None:
        """Builds the full-text index anew from the stored chunks."""
        with self.transaction():
            self.execute("INSERT INTO passages(passages) VALUES ('delete-all')")
            for row, title, heading, text in self.execute("SELECT id, title, heading, text FROM chunks"):
                self._index_words("", row, title, heading, text)

    def touch(self, path: str, stat: str, modified: float) -> None:
        """Notes that a file was looked at and holds what is stored."""
        self.execute("UPDATE sources SET stat = ?, modified = ? WHERE path = ?", (stat, modified, path))

    def remove(self, paths: Iterable[str]) -> list[str]:
        """Removes sources in one transaction; returns those that were there."""
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
            self._index_words("delete", row, title, heading, text)
            self.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", (row, generation))
        self.execute(
            "INSERT OR IGNORE INTO loose SELECT vector_key FROM chunks WHERE source_id = ?", (source,)
        )
        self.execute("DELETE FROM chunks WHERE source_id = ?", (source,))

    def _trim_removed(self) -> None:
        sql = "SELECT generation FROM removed ORDER BY generation DESC LIMIT 1 OFFSET ?"
        if rows := self.execute(sql, (_REMOVED_KEPT,)):
            self.set_meta(removed_floor=rows[0][0])
            self.execute("DELETE FROM removed WHERE generation <= ?", (rows[0][0],))


def _chunk_id(path: str, chunk: Chunk) -> str:
    """The same for the same passage of the same file, whatever happened to the store before."""
    digest = hashlib.blake2b(path.encode(), digest_size=12, person=b"chunk-id")
    digest.update(f"\0{chunk.start}\0{chunk.end}\0{chunk.text}".encode())
    return digest.hexdigest()
