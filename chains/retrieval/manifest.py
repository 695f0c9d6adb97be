"""The truth of a store: sources, texts, chunks, vectors and their full-text index in one SQLite file.

Knows rows and transactions. Refuses to know files, models and nearest neighbours. A document appears, changes
and vanishes in one transaction that raises the generation; vectors may be committed earlier, where nothing
can see them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.document import Chunk, ParsedDocument
from chains.retrieval.records import Changes, ChunkRecord, FileFacts, SourceRecord
from chains.retrieval.schema import connect, translated

# Raised when a parser's output changes: files that an older one read are read again.
PARSER_VERSION = 1
# Documents that an app added have an id, not a file: this prefix keeps the two apart.
APP_PREFIX = "app:"
# How many removals a reader can catch up with; an index that is further behind starts over.
_REMOVED_KEPT = 50_000
# FTS5's unicode61 takes a run of Chinese or Japanese for one word; spaces make each character one.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
_SLICE = 500


def keyword_text(text: str) -> str:
    """`text` as the full-text index reads it, at indexing and at asking."""
    return _UNSPACED.sub(r" \1 ", text)


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), _SLICE):
        yield items[first : first + _SLICE]


def _marks(items: Sequence[Any]) -> str:
    return ",".join("?" * len(items))


class Manifest:
    """One open manifest; its methods may be called from any thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._connection = connect(folder)
        self.store_id = self.meta("store_id") or ""

    def close(self) -> None:
        """Closes the file; a store that is closed cannot be used again."""
        with self._lock:
            self._connection.close()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one statement; raises this room's errors."""
        with self._lock, translated(self.folder):
            return self._connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed at its end, or nothing; transactions may nest."""
        with self._lock, translated(self.folder):
            if self._connection.in_transaction:
                yield
                return
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

    def _next_generation(self) -> int:
        generation = self.generation + 1
        self.set_meta(generation=generation)
        return generation

    # vectors --------------------------------------------------------------------------------------------

    def missing_vectors(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` that have no vector yet."""
        missing = set(keys)
        for part in _slices(list(missing)):
            rows = self.execute(f"SELECT key FROM vectors WHERE key IN ({_marks(part)})", part)
            missing.difference_update(row[0] for row in rows)
        return missing

    def put_vectors(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Commits vectors, float32 [len(keys), dimension]; they become visible with their document."""
        with self.transaction():
            rows = [(key, row.tobytes()) for key, row in zip(keys, vectors, strict=True)]
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def drop_unused_vectors(self) -> int:
        """Forgets vectors that no chunk names; returns how many."""
        with self.transaction():
            self.execute(
                "DELETE FROM vectors WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE vector_key = vectors.key)"
            )
            return int(self.execute("SELECT changes()")[0][0])

    def vectors_of(self, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The vectors of chunk rows, float32 [dimension] each."""
        found: dict[int, NDArray[np.float32]] = {}
        for part in _slices(rows):
            sql = (
                "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key "
                f"WHERE chunks.id IN ({_marks(part)})"
            )
            for row, blob in self.execute(sql, part):
                found[row] = np.frombuffer(blob, dtype=np.float32)
        return found

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
            f"metadata, text, blocks, text_hash, parser) VALUES ({_marks(values)}) RETURNING id"
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
            f"vector_key, generation) VALUES ({_marks(values)}) RETURNING id"
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
                chunk_id = _chunk_id(path, chunk.ordinal, key)
            row = self._insert_chunk(source, chunk, chunk_id, key, generation)
            self._index_words("", row, chunk.title, chunk.heading, chunk.text)

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
                self._trim_removed()
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
        self.execute("DELETE FROM chunks WHERE source_id = ?", (source,))

    def _trim_removed(self) -> None:
        sql = "SELECT generation FROM removed ORDER BY generation DESC LIMIT 1 OFFSET ?"
        if rows := self.execute(sql, (_REMOVED_KEPT,)):
            self.set_meta(removed_floor=rows[0][0])
            self.execute("DELETE FROM removed WHERE generation <= ?", (rows[0][0],))

    # reading --------------------------------------------------------------------------------------------

    def changes(self, since: int) -> Changes:
        """What was added and removed after generation `since` (-1: everything)."""
        with self.transaction():
            generation = self.generation
            full = since < int(self.meta("removed_floor") or 0) or since < 0
            floor = -1 if full else since
            removed = [] if full else self.execute("SELECT chunk FROM removed WHERE generation > ?", (since,))
            sql = (
                "SELECT chunks.id, vector FROM chunks JOIN vectors ON key = vector_key WHERE generation > ? "
                "ORDER BY chunks.id"
            )
            rows = self.execute(sql, (floor,))
        ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32)
        return Changes(
            generation=generation,
            full=full,
            removed=[row[0] for row in removed],
            added=ids,
            vectors=vectors.reshape(len(rows), -1) if rows else np.zeros((0, 0), np.float32),
        )

    def sources(self) -> list[SourceRecord]:
        """Every ingested document, by path."""
        sql = (
            "SELECT path, origin, kind, sources.title, size, modified, ingested, "
            "(SELECT count(*) FROM chunks WHERE source_id = sources.id), content_hash, stat, parser, "
            "metadata FROM sources ORDER BY path"
        )
        names = "path origin kind title size modified ingested chunks content_hash stat parser".split()
        return [
            SourceRecord(**dict(zip(names, row[:-1], strict=True)), metadata=json.loads(row[-1]))
            for row in self.execute(sql)
        ]

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
        for part in _slices(rows):
            found.update((c.row, c) for c in self.chunks(f"chunks.id IN ({_marks(part)})", part))
        return found

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
        marks = ", ".join(str(float(weight)) for weight in weights)
        only = "" if among is None else "AND rowid IN (SELECT value FROM json_each(?)) "
        sql = (
            f"SELECT rowid, -bm25(passages, {marks}) AS score FROM passages WHERE passages MATCH ? {only}"
            "ORDER BY score DESC, rowid LIMIT ?"
        )
        values = (match, limit) if among is None else (match, json.dumps(list(among)), limit)
        return [(int(row), float(score)) for row, score in self.execute(sql, values)]


def _chunk_id(path: str, ordinal: int, key: bytes) -> str:
    digest = hashlib.blake2b(path.encode(), digest_size=12, person=b"chunk-id")
    digest.update(ordinal.to_bytes(8, "big") + key)
    return digest.hexdigest()
