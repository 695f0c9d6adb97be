"""Checks a store against itself: the manifest's pages, its texts, vectors and words; saves what can be read.

Knows what must agree with what. Nothing is deleted before what could be read stands in a new file; what
cannot be read is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chains.retrieval.connection import connect
from chains.retrieval.errors import StoreDamaged, StoreUnwritable
from chains.retrieval.manifest import Manifest
from chains.retrieval.schema import FILE_NAME

# A damaged tree may seem to have rows without end.
_MAX_FAILURES = 5000
_TABLES = ("meta", "sources", "chunks", "vectors", "removed")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What a check found: `problems` in words, those `repaired`, and `lost` documents to ingest again."""

    documents: int
    chunks: int
    problems: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    index: str = "exact"
    recall: float = 1.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong now."""
        return len(self.repaired) == len(self.problems) and not self.lost

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "ok": self.ok,
            "documents": self.documents,
            "chunks": self.chunks,
            "problems": list(self.problems),
            "repaired": list(self.repaired),
            "lost": list(self.lost),
            "index": self.index,
            "recall": round(self.recall, 4),
        }


def check(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(kind, words) of each problem; kinds are "pages", "source:PATH", "vectors" and "words"."""
    for (line,) in manifest.execute("PRAGMA quick_check(5)"):
        if line != "ok":
            yield "pages", f"the manifest's pages: {line}"
    for path, text, text_hash in manifest.execute("SELECT path, text, text_hash FROM sources"):
        if hashlib.blake2b(text.encode(), digest_size=20).digest() != text_hash:
            yield f"source:{path}", f"the stored text of {path!r} is not the one that was stored"
    sql = (
        "SELECT DISTINCT path FROM chunks JOIN sources ON sources.id = source_id "
        "WHERE substr(sources.text, start + 1, end - start) <> chunks.text"
    )
    for (path,) in manifest.execute(sql):
        yield f"source:{path}", f"a chunk of {path!r} is not what its offsets point at"
    yield from _check_vectors(manifest)
    yield from _check_words(manifest)


def _check_vectors(manifest: Manifest) -> Iterator[tuple[str, str]]:
    sql = (
        "SELECT path, vector FROM chunks JOIN sources ON sources.id = source_id "
        "LEFT JOIN vectors ON key = vector_key"
    )
    broken: set[str] = set()
    for path, blob in manifest.execute(sql):
        vector = np.frombuffer(blob, dtype=np.float32) if blob and len(blob) % 4 == 0 else None
        if vector is None or not 0.98 < float(np.linalg.norm(vector.astype(np.float64))) < 1.02:
            broken.add(path)
    for path in sorted(broken):
        yield f"source:{path}", f"a vector of {path!r} is missing or damaged"


def _check_words(manifest: Manifest) -> Iterator[tuple[str, str]]:
    try:
        # SQLite takes this question for a change: where nothing can be written it is not asked.
        with contextlib.suppress(StoreUnwritable):
            manifest.execute("INSERT INTO passages(passages) VALUES ('integrity-check')")
        counted = manifest.execute("SELECT count(*) FROM passages_docsize")[0][0]
        if counted != manifest.count():
            yield "words", f"the full-text index holds {counted} chunks of {manifest.count()}"
    except (StoreDamaged, sqlite3.DatabaseError) as error:
        yield "words", f"the full-text index: {error}"


def salvage(folder: Path) -> list[str]:
    """Copies every row that can be read of a damaged manifest into a new one; returns the lost paths.

    The damaged file is kept beside it as `manifest.damaged`.
    """
    path = folder / FILE_NAME
    fresh = folder / "salvage"
    fresh.mkdir(exist_ok=True)
    (fresh / FILE_NAME).unlink(missing_ok=True)
    target = connect(fresh)
    lost: list[str] = []
    try:
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for table in _TABLES:
                _copy(source, target, table)
        finally:
            source.close()
        lost = _drop_incomplete(target)
    finally:
        target.close()
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    path.replace(folder / "manifest.damaged")
    (fresh / FILE_NAME).replace(path)
    for leftover in fresh.iterdir():
        leftover.unlink()
    fresh.rmdir()
    manifest = Manifest(folder)
    manifest.rebuild_words()
    manifest.close()
    return lost


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> None:
    """Copies a table row by row; a row that cannot be read is stepped over."""
    columns = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(columns)
    marks = ", ".join("?" * (len(columns) + 1))
    target.execute("BEGIN")
    for row in _rows(source, table, names):
        with contextlib.suppress(sqlite3.DatabaseError):
            target.execute(f"INSERT OR REPLACE INTO {table}(rowid, {names}) VALUES ({marks})", row)
    target.execute("COMMIT")


def _rows(source: sqlite3.Connection, table: str, names: str) -> Iterator[Any]:
    """Every row that can be read, by row number; what cannot be read is stepped over, a row at a time."""
    sql = f"SELECT rowid, {names} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"
    position, step, failures = -1, 64, 0
    while failures < _MAX_FAILURES:
        try:
            rows = source.execute(sql, (position, step)).fetchall()
        except sqlite3.DatabaseError:
            if step == 1:
                position += 1
                failures += 1
            step = 1
            continue
        if not rows:
            return
        yield from rows
        position = rows[-1][0]


def _drop_incomplete(target: sqlite3.Connection) -> list[str]:
    """Removes documents whose chunks or vectors did not survive whole; returns their paths."""
    target.execute("DELETE FROM chunks WHERE source_id NOT IN (SELECT id FROM sources)")
    sql = (
        "SELECT id, path FROM sources WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE source_id = sources.id) "
        "OR EXISTS (SELECT 1 FROM chunks WHERE source_id = sources.id "
        "AND vector_key NOT IN (SELECT key FROM vectors))"
    )
    gaps = (
        "SELECT sources.id, path FROM sources JOIN chunks ON source_id = sources.id GROUP BY sources.id "
        "HAVING count(*) <> max(ordinal) + 1"
    )
    bad = dict([*target.execute(sql).fetchall(), *target.execute(gaps).fetchall()])
    for number in bad:
        target.execute("DELETE FROM chunks WHERE source_id = ?", (number,))
        target.execute("DELETE FROM sources WHERE id = ?", (number,))
    highest = target.execute("SELECT coalesce(max(generation), 0) FROM chunks").fetchone()[0]
    target.execute(
        "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) + 1 WHERE key = 'generation'", (highest,)
    )
    target.execute("DELETE FROM meta WHERE key LIKE 'chroma:%'")
    return sorted(bad.values())
