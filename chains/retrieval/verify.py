"""Checks and repairs a store: texts, chunks, vectors and full-text index are compared with each other.

Nothing is deleted before what can be read stands in a new file. Documents that cannot be saved are named, so
that they can be ingested again.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chains.retrieval.chroma import NearestNeighbours
from chains.retrieval.database import FILE_NAME, connect
from chains.retrieval.errors import StoreDamaged, StoreUnwritable
from chains.retrieval.manifest import Manifest

# The index is rebuilt if fewer of the stored vectors than this find themselves.
_GOOD_RECALL = 0.9
# A damaged B-tree may appear to have rows without end.
_MAX_FAILURES = 5000
_TABLES = ("meta", "sources", "chunks", "vectors", "removed")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What a verification found.

    Args:
        documents: Documents in the store.
        chunks: Chunks in the store.
        problems: What was wrong, in words.
        repaired: Those of the problems that a repair removed.
        lost: Paths of documents that must be ingested again.
        index: The state of the index; see `NearestNeighbours.state`.
        recall: The share of stored vectors that the index finds by themselves.
    """

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
        """Return the report as JSON values."""
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


def verify_store(manifest: Manifest, nearest: NearestNeighbours) -> VerifyReport:
    """Return what is wrong with a store, without changing it."""
    problems = [words for _, words in _check(manifest)]
    state = nearest.state(thorough=True)
    if state not in ("exact", "clean"):
        problems.append(f"the Chroma index is {state}; the exact index answers until the next ingest")
    return VerifyReport(
        documents=len(manifest.sources()),
        chunks=manifest.count(),
        problems=tuple(problems),
        index=state,
        recall=nearest.recall(),
    )


def repair_store(manifest: Manifest, nearest: NearestNeighbours) -> VerifyReport:
    """Remove damaged documents, rebuild the full-text index and the index, and return what is left to do.

    The caller has the writer lock.
    """
    before = verify_store(manifest, nearest)
    damaged = [kind.partition(":")[2] for kind, _ in _check(manifest) if kind.startswith("source:")]
    lost = manifest.remove(dict.fromkeys(damaged))
    manifest.rebuild_full_text()
    manifest.delete_unused_vectors(check_all=True)
    nearest.sync(thorough=True)
    if nearest.recall() < _GOOD_RECALL:
        nearest.rebuild()
    after = verify_store(manifest, nearest)
    repaired = tuple(words for words in before.problems if words not in after.problems)
    return replace(after, problems=before.problems, repaired=repaired, lost=tuple(lost))


# Checks -----------------------------------------------------------------------------------------------------


def _check(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (kind, words) for each problem; kinds are "pages", "source:PATH" and "words"."""
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
    yield from _check_full_text(manifest)


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


def _check_full_text(manifest: Manifest) -> Iterator[tuple[str, str]]:
    try:
        # SQLite treats this query as a change, so it is left out if the store cannot be written.
        with contextlib.suppress(StoreUnwritable):
            manifest.execute("INSERT INTO passages(passages) VALUES ('integrity-check')")
        counted = manifest.execute("SELECT count(*) FROM passages_docsize")[0][0]
        if counted != manifest.count():
            yield "words", f"the full-text index holds {counted} chunks of {manifest.count()}"
    except (StoreDamaged, sqlite3.DatabaseError) as error:
        yield "words", f"the full-text index: {error}"


# Salvage ----------------------------------------------------------------------------------------------------


def salvage_if_damaged(folder: Path) -> list[str]:
    """Salvage the manifest if its pages are damaged; return the paths of the documents that were lost."""
    if not (folder / FILE_NAME).exists():
        return []
    try:
        manifest = Manifest(folder)
    except StoreDamaged:
        return salvage(folder)
    try:
        sound = manifest.execute("PRAGMA quick_check(1)") == [("ok",)]
    except StoreDamaged:
        sound = False
    finally:
        manifest.close()
    return [] if sound else salvage(folder)


def salvage(folder: Path) -> list[str]:
    """Copy every readable row of a damaged manifest into a new one; return the paths of lost documents.

    The damaged file is kept next to it as `manifest.damaged`.
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
    manifest.rebuild_full_text()
    manifest.close()
    return lost


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> None:
    """Copy a table row by row, skipping rows that cannot be read."""
    # A manifest of an earlier version lacks the columns that came later.
    columns = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
    with contextlib.suppress(sqlite3.DatabaseError):
        known = {row[1] for row in source.execute(f"PRAGMA table_info({table})")}
        columns = [name for name in columns if name in known]
    names = ", ".join(columns)
    marks = ", ".join("?" * (len(columns) + 1))
    target.execute("BEGIN")
    for row in _rows(source, table, names):
        with contextlib.suppress(sqlite3.DatabaseError):
            target.execute(f"INSERT OR REPLACE INTO {table}(rowid, {names}) VALUES ({marks})", row)
    target.execute("COMMIT")


def _rows(source: sqlite3.Connection, table: str, names: str) -> Iterator[Any]:
    """Yield every row that can be read, by row number; after a failure rows are read one at a time."""
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
    """Delete documents whose chunks or vectors are not all there; return their paths."""
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
    incomplete = dict([*target.execute(sql).fetchall(), *target.execute(gaps).fetchall()])
    for number in incomplete:
        target.execute("DELETE FROM chunks WHERE source_id = ?", (number,))
        target.execute("DELETE FROM sources WHERE id = ?", (number,))
    highest = target.execute("SELECT coalesce(max(generation), 0) FROM chunks").fetchone()[0]
    target.execute(
        "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) + 1 WHERE key = 'generation'", (highest,)
    )
    target.execute("DELETE FROM meta WHERE key LIKE 'segment:%'")
    return sorted(incomplete.values())
