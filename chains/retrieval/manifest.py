"""The manifest: one SQLite file that holds everything a store knows.

`Manifest` keeps sources, texts, chunks, vectors and the full-text index. A document appears, changes and
disappears in one transaction that raises the generation; vectors may be committed earlier, when no chunk
refers to them yet. Indexes are built from the manifest and can be deleted at any time. `database.py` opens
the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.database import FILE_NAME, MEMORY, ReadOnlyConnection, connect, store_errors
from chains.retrieval.document import Chunk, ChunkRecord, LineBox, ParsedDocument, SourceFile, SourceRecord
from chains.retrieval.full_text import FULL_TEXT_VERSION, full_text
from chains.retrieval.index import Changes
from chains.retrieval.lock import gone

# Raised when the output of a parser changes. Files that an older parser read are then read again.
PARSER_VERSION = 3
# Texts that an app adds have an id instead of a file; this prefix keeps ids and paths apart.
APP_PREFIX = "app:"
# An index that is more removals than this behind starts over.
_REMOVED_KEPT = 50_000
# Values in one SQL statement.
_BATCH = 500


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
        self._file = self._identity()
        self.store_id = self.meta("store_id") or ""
        self._renew_full_text()

    def close(self) -> None:
        """Close the file. A closed manifest cannot be used again."""
        with self._lock:
            self._connection.close()

    def _identity(self) -> tuple[int, int]:
        """Return the device and inode of the file; zeros in memory, or if there is none."""
        try:
            found = (self.folder / FILE_NAME).stat()
        except OSError:
            return 0, 0
        return found.st_dev, found.st_ino

    def check_there(self) -> None:
        """Raise StoreGone if the open file is no longer the one in the folder: SQLite would not notice."""
        if self.folder != MEMORY and self._identity() != self._file:
            raise gone(self.folder)

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
                self._file = self._identity()

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
            f"given, metadata FROM sources WHERE {where} ORDER BY path"
        )
        names = "path origin kind title size modified ingested chunks content_hash stat parser partly".split()
        return [
            SourceRecord(
                **dict(zip(names, row[:-2], strict=True)),
                given=json.loads(row[-2]),
                metadata=json.loads(row[-1]),
            )
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
        """Return the chunks with these chunk ids; ids that do not exist are skipped.

        If a file has a chunk of that id, and an app added a text under it, the app's text is returned.
        """
        found: dict[str, ChunkRecord] = {}
        for batch in _batches([*ids, *(f"{APP_PREFIX}{name}" for name in ids)]):
            chunks = self._chunks(f"chunk_id IN ({_marks(batch)})", batch)
            found.update((chunk.chunk_id, chunk) for chunk in chunks)
        wanted = (found.get(f"{APP_PREFIX}{name}") or found.get(name) for name in dict.fromkeys(ids))
        return [chunk for chunk in wanted if chunk is not None]

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
            *(source.size, source.modified, time.time()),
            json.dumps({**document.metadata, **source.given}, default=str),
            *(
                document.text,
                blocks,
                text_hash,
                PARSER_VERSION,
                document.partly,
                json.dumps(dict(source.given)),
            ),
        )
        sql = (
            "INSERT INTO sources(path, origin, kind, title, content_hash, stat, size, modified, ingested, "
            "metadata, text, blocks, text_hash, parser, partly, given) "
            f"VALUES ({_marks(values)}) RETURNING id"
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
            chunk_id = self._free_id(path, origin, chunk)
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

    def _free_id(self, path: str, origin: str, chunk: Chunk) -> str:
        """Return the id of a new chunk. An app may add a text under the id of a chunk that it retrieved."""
        if origin == "app":
            name = path.removeprefix(APP_PREFIX)
            taken = self.execute("SELECT 1 FROM chunks WHERE chunk_id = ?", (name,))
            return path if taken else name
        name = _chunk_id(path, chunk)
        self.execute("UPDATE chunks SET chunk_id = ? WHERE chunk_id = ?", (f"{APP_PREFIX}{name}", name))
        return name

    def _index_text(self, command: str, row: int, title: str, heading: str, text: str) -> None:
        """Add a chunk to the full-text index, or remove it with "delete", for which FTS5 needs its texts."""
        values = (full_text(title), full_text(heading), full_text(text))
        if command:
            sql = "INSERT INTO passages(passages, rowid, title, heading, body) VALUES (?, ?, ?, ?, ?)"
            self.execute(sql, (command, row, *values))
        else:
            sql = "INSERT INTO passages(rowid, title, heading, body) VALUES (?, ?, ?, ?)"
            self.execute(sql, (row, *values))

    def _renew_full_text(self) -> None:
        """Rebuild the full-text index if an earlier version of `full_text` made it."""
        current = str(FULL_TEXT_VERSION)
        if self.read_only or self.meta("full_text") == current:
            return
        with self.transaction():
            if self.meta("full_text") != current and not self.empty:
                self.rebuild_full_text()
            self.set_meta(full_text=current)

    def rebuild_full_text(self) -> None:
        """Rebuild the full-text index from the stored chunks."""
        with self.transaction():
            self.execute("INSERT INTO passages(passages) VALUES ('delete-all')")
            for row, title, heading, text in self.execute("SELECT id, title, heading, text FROM chunks"):
                self._index_text("", row, title, heading, text)

    def update_stat(self, path: str, stat: str, modified: float) -> None:
        """Record a file's new times when its content is what is stored."""
        self.execute("UPDATE sources SET stat = ?, modified = ? WHERE path = ?", (stat, modified, path))

    def update_given(self, path: str, given: Mapping[str, Any]) -> None:
        """Replace the metadata that a caller gave for a source."""
        sql = "SELECT metadata, given FROM sources WHERE path = ?"
        with self.transaction():
            for metadata, before in self.execute(sql, (path,)):
                own = {key: v for key, v in json.loads(metadata).items() if key not in json.loads(before)}
                values = (json.dumps({**own, **given}), json.dumps(dict(given)), path)
                self.execute("UPDATE sources SET metadata = ?, given = ? WHERE path = ?", values)
                self._next_generation()

    def remove_chunks(self, rows: Sequence[int]) -> int:
        """Remove chunks, and sources that have none left, in one transaction; return how many existed."""
        with self.transaction():
            found = [
                row
                for batch in _batches(rows)
                for row in self.execute(_TEXTS + f"id IN ({_marks(batch)})", batch)
            ]
            if found:
                self._forget_chunks(found, self._next_generation())
                self.execute(
                    "DELETE FROM sources WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE source_id = sources.id)"
                )
            return len(found)

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
        self._forget_chunks(self.execute(_TEXTS + "source_id = ?", (source,)), generation)

    def _forget_chunks(self, found: Sequence[Sequence[Any]], generation: int) -> None:
        """Delete chunks that were read with `_TEXTS`."""
        for row, title, heading, text, key in found:
            self._index_text("delete", row, title, heading, text)
            self.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", (row, generation))
            self.execute("INSERT OR IGNORE INTO loose VALUES (?)", (key,))
            self.execute("DELETE FROM chunks WHERE id = ?", (row,))


# What it takes to remove a chunk.
_TEXTS = "SELECT id, title, heading, text, vector_key FROM chunks WHERE "


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return compact JSON, or "" for an empty value."""
    return json.dumps(value, separators=(",", ":"), default=dict) if value else ""


def _chunk_id(path: str, chunk: Chunk) -> str:
    """Return an id that is the same for the same passage of the same file in every store."""
    digest = hashlib.blake2b(path.encode(), digest_size=12, person=b"chunk-id")
    digest.update(f"\0{chunk.start}\0{chunk.end}\0{chunk.text}".encode())
    return digest.hexdigest()
