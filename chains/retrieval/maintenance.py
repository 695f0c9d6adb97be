"""Looking after a store: figures, export, verification and repair.

Knows the manifest and the index; the caller holds the writer lock where anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from chains.retrieval.embedder import EmbedderIdentity
from chains.retrieval.errors import StoreDamaged
from chains.retrieval.manifest import Manifest
from chains.retrieval.nearest import NearestNeighbours
from chains.retrieval.schema import FILE_NAME
from chains.retrieval.verify import VerifyReport, check, salvage

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
