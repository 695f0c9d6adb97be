"""Reading the manifest: settings, sources, chunks, vectors, changes and keyword hits.

Knows rows and transactions. Refuses to change anything (manifest.py does), and to know files, models and
nearest neighbours.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.connection import ReadOnly, connect
from chains.retrieval.document import ParsedDocument
from chains.retrieval.records import Changes, ChunkRecord, SourceRecord
from chains.retrieval.schema import translated

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
