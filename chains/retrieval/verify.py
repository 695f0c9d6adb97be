"""Checks a store against itself: the manifest's pages, its texts, vectors and words; saves what can be read.

Knows what must agree with what. Nothing is deleted before what could be read stands in a new file; what
cannot be read is named.

Looking after a store: figures, export, verification and repair.

Knows the manifest and the index; the caller holds the writer lock where anything is written.
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
from chains.retrieval.embedder import EmbedderIdentity
from chains.retrieval.errors import StoreDamaged, StoreUnwritable
from chains.retrieval.manifest import FILE_NAME, Manifest, connect

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


_GOOD_RECALL = 0.9


def stats(manifest: Manifest, nearest: NearestNeighbours) -> dict[str, Any]:
    """Counts, settings and sizes on disk: bytes in blocks, since a sparse file's size says nothing."""
    recorded = manifest.meta("embedder")
    embedder = EmbedderIdentity.from_json(recorded) if recorded else None
    sources = manifest.sources()
    files = [path for path in manifest.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        "path": str(manifest.folder),
        "documents": len(sources),
        "chunks": manifest.count(),
        "characters": manifest.execute("SELECT coalesce(sum(length(text)), 0) FROM sources")[0][0],
        "kinds": {kind: sum(s.kind == kind for s in sources) for kind in sorted({s.kind for s in sources})},
        "generation": manifest.generation,
        "index": nearest.state(),
        "embedder": embedder.name if embedder else None,
        "precision": embedder.precision if embedder else None,
        "splitter": manifest.meta("splitter"),
        "bytes_on_disk": sum(path.stat().st_blocks * 512 for path in files),
    }


def export(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Every document with its text and the spans of its chunks, by path."""
    for record in manifest.sources():
        chunks = manifest.chunks("path = ?", (record.path,))
        spans = [
            {"chunk_id": c.chunk_id, "start": c.start, "end": c.end, "heading": c.heading, "page": c.page}
            for c in chunks
        ]
        yield {**record.as_dict(), "text": manifest.text(record.path), "chunks": spans}


def verified(manifest: Manifest, nearest: NearestNeighbours) -> VerifyReport:
    """What is wrong with a store as it is."""
    problems = [words for _, words in check(manifest)]
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


def repaired(manifest: Manifest, nearest: NearestNeighbours) -> VerifyReport:
    """Drops documents that are damaged, rebuilds words and index, and says what is left."""
    before = verified(manifest, nearest)
    damaged = [kind.partition(":")[2] for kind, _ in check(manifest) if kind.startswith("source:")]
    lost = manifest.remove(dict.fromkeys(damaged))
    manifest.rebuild_words()
    manifest.tidy(thorough=True)
    nearest.sync(thorough=True)
    if nearest.recall() < _GOOD_RECALL:
        nearest.rebuild()
    after = verified(manifest, nearest)
    mended = tuple(words for words in before.problems if words not in after.problems)
    return replace(after, problems=before.problems, repaired=mended, lost=tuple(lost))


def salvage_if_damaged(folder: Path) -> list[str]:
    """Saves what can be read of a manifest with damaged pages; returns the paths that were lost."""
    if not (folder / FILE_NAME).exists():
        return []
    try:
        manifest = Manifest(folder)
    except StoreDamaged:
        return salvage(folder)
    try:
        whole = manifest.execute("PRAGMA quick_check(1)") == [("ok",)]
    except StoreDamaged:
        whole = False
    finally:
        manifest.close()
    return [] if whole else salvage(folder)
