"""The truth of a store: sources, texts, chunks, vectors and their full-text index in one SQLite file.

Knows rows and transactions. Refuses to know files, models and nearest neighbours. A document appears, changes
and vanishes in one transaction that raises the generation; vectors may be committed earlier, where nothing
can see them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.document import Chunk, ParsedDocument
from chains.retrieval.reading import ManifestReader, keyword_text, marks
from chains.retrieval.records import FileFacts

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
