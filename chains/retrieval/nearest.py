"""Decides which index answers: Chroma where it is clean and current, else the exact one.

Knows generations and the dirty bit. The bit is set in the manifest before Chroma is written and cleared after
its folder was closed and sealed; a dirty, damaged or stale Chroma is never opened: it is deleted and rebuilt
from the manifest's vectors by the next writer, and the exact index answers until then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.chroma_index import ChromaIndex
from chains.retrieval.errors import IndexUnavailable
from chains.retrieval.index import ExactIndex
from chains.retrieval.manifest import Manifest

logger = logging.getLogger(__name__)

T = TypeVar("T")
IndexKind = Literal["chroma", "exact"]
# Self-queries on opening: a stored vector must find itself; three of 32 may be missed by an approximate
# graph.
_PROBES = 32
_PROBES_NEEDED = 29
_COSINE_OF_ITSELF = 0.9999


class NearestNeighbours:
    """The dense half of search over one manifest.

    Args:
        manifest: the truth.
        kind: "chroma" keeps and asks Chroma; "exact" never touches it.
        server: the URL of a Chroma server in place of the folder beside the manifest.
    """

    def __init__(self, manifest: Manifest, kind: IndexKind = "chroma", server: str | None = None) -> None:
        self._manifest = manifest
        self._lock = threading.RLock()
        self._exact = ExactIndex()
        self._chroma: ChromaIndex | None = None
        self._refused = ""  # the seal of a Chroma that failed its checks: not tried again until it changes
        if kind == "chroma":
            target = server or str(Path(manifest.folder) / "chroma")
            self._chroma = ChromaIndex(target, manifest.store_id)

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """(row, cosine) of the nearest chunks to a unit vector, float32 [dimension], best first."""
        with self._lock:
            generation = self._manifest.generation
            if self._usable(generation):
                found = self._guarded(lambda chroma: chroma.search(vector, k))
                # Chroma was asked while a writer may have begun to change it: its answer counts only if none
                # has.
                if found is not None and self._clean(self._manifest.generation):
                    return found
            self.exact()
            return self._exact.search(vector, k)

    def exact(self) -> ExactIndex:
        """The exact index, brought up to the manifest's generation."""
        with self._lock:
            if self._exact.generation != self._manifest.generation:
                self._exact.apply(self._manifest.changes(self._exact.generation))
            return self._exact

    def state(self) -> str:
        """One word: "exact" (no Chroma kept), "clean", "dirty" or "stale"."""
        if self._chroma is None:
            return "exact"
        if self._recorded("dirty") == "1":
            return "dirty"
        return "clean" if self._clean(self._manifest.generation) else "stale"

    def _recorded(self, what: str) -> str:
        assert self._chroma is not None
        where = self._chroma.target if self._chroma.remote else "folder"
        return self._manifest.meta(f"chroma:{where}:{what}") or ""

    def _record(self, **values: object) -> None:
        assert self._chroma is not None
        where = self._chroma.target if self._chroma.remote else "folder"
        self._manifest.set_meta(**{f"chroma:{where}:{key}": value for key, value in values.items()})

    def _clean(self, generation: int) -> bool:
        return self._recorded("dirty") == "0" and self._recorded("generation") == str(generation)

    def _usable(self, generation: int) -> bool:
        """Whether Chroma is open and shows `generation`; opens it where that is safe."""
        if self._chroma is None:
            return False
        if not self._clean(generation):
            self._guarded(lambda chroma: chroma.rest())
            return False
        if self._chroma.generation == generation:
            return True
        self._guarded(lambda chroma: chroma.rest())
        seal = self._recorded("seal")
        if self._refused == f"{generation} {seal}":
            return False
        if not self._chroma.remote and self._chroma.seal() != seal:
            self._refuse(generation, seal, "its files are not the ones that were closed")
            return False
        if self._guarded(lambda chroma: chroma.open(generation)) is False or self._chroma.generation < 0:
            self._refuse(generation, seal, "it cannot be opened")
            return False
        if not self._holds_up():
            self._guarded(lambda chroma: chroma.rest())
            self._refuse(generation, seal, "it does not find what the manifest holds")
            return False
        return True

    def _refuse(self, generation: int, seal: str, why: str) -> None:
        assert self._chroma is not None
        self._refused = f"{generation} {seal}"
        logger.warning(
            "the Chroma index at %s is not used: %s; the exact index answers until it is rebuilt",
            self._chroma.target,
            why,
        )

    def _guarded(self, action: Callable[[ChromaIndex], T]) -> T | None:
        """Runs `action`; None where Chroma fails, its Rust panics included."""
        assert self._chroma is not None
        try:
            return action(self._chroma)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            logger.debug("chroma failed: %s", error)
            self._chroma.generation = -1
            return None

    def _holds_up(self) -> bool:
        """Compares the count and asks for a sample of stored vectors."""
        total = self._manifest.count()
        if self._guarded(lambda chroma: chroma.count()) != total:
            return False
        step = max(1, total // _PROBES)
        sql = "SELECT id FROM chunks WHERE id % ? = 0 ORDER BY id LIMIT ?"
        rows = [row[0] for row in self._manifest.execute(sql, (step, _PROBES))]
        return self._self_recall(rows) * _PROBES >= _PROBES_NEEDED or not rows

    def _self_recall(self, rows: list[int]) -> float:
        """The share of chunk rows whose own vector finds a vector as good as itself first."""
        vectors = self._manifest.vectors_of(rows)
        hits = 0
        for vector in vectors.values():
            found = self._guarded(lambda chroma, vector=vector: chroma.search(vector, 1))  # type: ignore[misc]
            hits += bool(found and found[0][1] >= _COSINE_OF_ITSELF)
        return hits / len(vectors) if vectors else 1.0

    def check_server(self) -> None:
        """Raises IndexUnavailable before anything is written where a Chroma server is wanted and absent."""
        if self._chroma is not None and self._chroma.remote:
            self._chroma.open(-1)

    def sync(self) -> None:
        """Brings Chroma up to the manifest, rebuilt where dirty or damaged; needs the writer lock."""
        with self._lock:
            chroma = self._chroma
            if chroma is None:
                return
            generation = self._manifest.generation
            if self._usable(generation):
                return
            chroma.rest()
            # Only what was closed cleanly is built upon; anything else starts over.
            sealed = chroma.remote or chroma.seal() == self._recorded("seal")
            fresh = self._recorded("dirty") == "0" and sealed
            since = int(self._recorded("generation") or -1) if fresh and not self._refused else -1
            if not self._write(since) and not (since >= 0 and self._write(-1)):
                raise IndexUnavailable(
                    f"expected to write the Chroma index at {chroma.target!r}, found it failing; the "
                    "documents are stored and the exact index answers: free some space, then run "
                    "`agent docs verify --repair`"
                )

    def _write(self, since: int) -> bool:
        chroma = self._chroma
        assert chroma is not None
        changes = self._manifest.changes(since)
        self._record(dirty=1)
        if changes.full or since < 0:
            self._guarded(lambda c: c.destroy())

        def apply(index: ChromaIndex) -> bool:
            index.open(since)
            index.apply(changes)
            if index.count() != self._manifest.count():
                return False
            index.rest()
            return True

        if not self._guarded(apply):
            self._guarded(lambda c: c.rest())
            return False
        self._record(dirty=0, generation=changes.generation, seal=chroma.seal())
        self._refused = ""
        return True

    def rebuild(self) -> None:
        """Throws Chroma away and builds it from the manifest; the caller holds the writer lock."""
        with self._lock:
            if self._chroma is not None and not self._write(-1):
                raise IndexUnavailable(
                    f"expected to rebuild the Chroma index at {self._chroma.target!r}, found it failing; "
                    "free some space, then run `agent docs verify --repair`"
                )

    def recall(self, sample: int = 200) -> float:
        """Self-query recall of whichever index answers, over an even sample of the stored vectors."""
        total = self._manifest.count()
        step = max(1, total // max(sample, 1))
        sql = "SELECT id FROM chunks WHERE id % ? = 0 ORDER BY id LIMIT ?"
        rows = [row[0] for row in self._manifest.execute(sql, (step, sample))]
        vectors = self._manifest.vectors_of(rows)
        hits = sum(self.search(vector, 1)[0][1] >= _COSINE_OF_ITSELF for vector in vectors.values())
        return hits / len(vectors) if vectors else 1.0

    def close(self) -> None:
        """Lets go of Chroma's files."""
        with self._lock:
            if self._chroma is not None:
                self._guarded(lambda chroma: chroma.close())
