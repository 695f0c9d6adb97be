"""Decides which index answers: Chroma where it is clean and current, else the exact one.

Knows generations and the dirty bit. The bit is set in the manifest before Chroma is written and cleared after
its folder was closed and sealed; a dirty or damaged Chroma is never opened: it is deleted and rebuilt from
the manifest's vectors by the next writer, and the exact index answers until then. Chroma may lag behind the
manifest by a share of the store, since writing to it costs as much as it is large: what changed meanwhile is
compared exactly (recent.py).
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.chroma_index import ChromaIndex
from chains.retrieval.errors import IndexUnavailable, StoreError
from chains.retrieval.index import ExactIndex
from chains.retrieval.manifest import Manifest
from chains.retrieval.recent import Recent

logger = logging.getLogger(__name__)

T = TypeVar("T")
IndexKind = Literal["chroma", "exact"]
# Self-queries on opening: a stored vector must find itself; three of 32 may be missed by an approximate
# graph.
_PROBES = 32
_PROBES_NEEDED = 29
_COSINE_OF_ITSELF = 0.9999
# Chroma is brought up to date once a sixteenth of the store has changed, and answers until twice that has.
_LAG_LEAST = 64
_LAG_SHARE = 16
# After so many seconds a server that could not be reached is tried again.
_RETRY_S = 30.0


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
        self._recent = Recent(-1)
        self._refused = ""  # the seal of a Chroma that failed its checks: not tried again until it changes,
        self._retry_at = math.inf  # or until this moment, seconds of the monotonic clock
        if kind == "chroma":
            target = server or str(Path(manifest.folder) / "chroma")
            self._chroma = ChromaIndex(target, manifest.store_id)

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """(row, cosine) of the nearest chunks to a unit vector, float32 [dimension], best first."""
        with self._lock:
            if self._usable():
                found = self._recent.merged(
                    vector, k, lambda wanted: self._guarded(lambda chroma: chroma.search(vector, wanted))
                )
                # Chroma was asked while a writer may have begun to change it: its answer counts only if none
                # has.
                if found is not None and self._written() == self._recent.since:
                    return found
            return self.exact().search(vector, k)

    def exact(self) -> ExactIndex:
        """The exact index, brought up to the manifest's generation."""
        with self._lock:
            if self._exact.generation != self._manifest.generation:
                self._exact.apply(self._manifest.changes(self._exact.generation))
            return self._exact

    def state(self, *, thorough: bool = False) -> str:
        """One word: "exact" (no Chroma kept), "clean", "dirty", "stale", "damaged" or "unreachable".

        The last two only where `thorough`, which reads every byte of Chroma's graph, for bits that flipped
        without a trace, and opens it.
        """
        if self._chroma is None or self._unasked:
            return "exact"
        if self._recorded("dirty") == "1":
            return "dirty"
        written = self._written()
        if written < 0 or self._manifest.lag(written) > self._most_lag():
            return "stale"
        if not thorough:
            return "clean"
        if not self._chroma.remote and self._chroma.seal() != self._recorded("seal"):
            return "damaged"
        if self._chroma.remote:
            self._retry_at = 0.0  # who asks so thoroughly wants to know of now
        if self._usable():
            return "clean"
        return "unreachable" if self._chroma.remote else "damaged"

    @property
    def _unasked(self) -> bool:
        """Whether Chroma is left alone: it writes wherever it reads, which the store does not allow."""
        return self._manifest.read_only and self._chroma is not None and not self._chroma.remote

    def _recorded(self, what: str) -> str:
        assert self._chroma is not None
        where = self._chroma.target if self._chroma.remote else "folder"
        return self._manifest.meta(f"chroma:{where}:{what}") or ""

    def _record(self, **values: object) -> None:
        assert self._chroma is not None
        where = self._chroma.target if self._chroma.remote else "folder"
        self._manifest.set_meta(**{f"chroma:{where}:{key}": value for key, value in values.items()})

    def _written(self) -> int:
        """The generation that Chroma was written at; -1 where it is dirty, or was never written."""
        return int(self._recorded("generation") or -1) if self._recorded("dirty") == "0" else -1

    def _most_lag(self) -> int:
        """How many rows may change before Chroma is written again."""
        return max(_LAG_LEAST, int(self._recorded("count") or 0) // _LAG_SHARE)

    def _usable(self) -> bool:
        """Whether Chroma, with what is recent, shows the manifest; opens it where that is safe."""
        chroma = self._chroma
        if chroma is None or self._unasked:
            return False
        written = self._written()
        if self._recent.since != written:
            self._recent = Recent(written)
        if written < 0 or not self._recent.follow(self._manifest, 2 * self._most_lag()):
            self._recent = Recent(-1)
            self._guarded(lambda chroma: chroma.rest())
            return False
        if chroma.generation == written:
            return True
        self._guarded(lambda chroma: chroma.rest())
        seal = self._recorded("seal")
        if self._refused == f"{written} {seal}" and time.monotonic() < self._retry_at:
            return False
        return self._opened(chroma, written, seal)

    def _opened(self, chroma: ChromaIndex, written: int, seal: str) -> bool:
        """Opens Chroma if its files are those that were closed, and asks it for what it must know."""
        if not self._sealed(chroma):
            self._refuse(written, seal, "its files are not the ones that were closed")
        elif self._guarded(lambda chroma: chroma.open(written)) is False or chroma.generation < 0:
            # A server may be back in a minute, with all it held.
            self._refuse(written, seal, "it cannot be opened", lasting=not chroma.remote)
        elif not self._holds_up(written):
            self._guarded(lambda chroma: chroma.rest())
            self._refuse(written, seal, "it does not find what the manifest holds")
        else:
            self._refused = ""
            return True
        return False

    def _sealed(self, chroma: ChromaIndex) -> bool:
        """Whether the files are as they were closed: by their times and sizes, else by their content."""
        if chroma.remote:
            return True
        return chroma.fingerprint() == self._recorded("files") or chroma.seal() == self._recorded("seal")

    def _refuse(self, generation: int, seal: str, why: str, *, lasting: bool = True) -> None:
        assert self._chroma is not None
        known, self._refused = self._refused, f"{generation} {seal}"
        self._retry_at = math.inf if lasting else time.monotonic() + _RETRY_S
        logger.log(
            logging.DEBUG if known == self._refused else logging.WARNING,
            "the Chroma index at %s is not used: %s; the exact index answers until it is rebuilt",
            self._chroma.target,
            why,
        )
        if not lasting:
            return
        # The next writer, in whichever process, rebuilds it; a store that cannot be written has none.
        with contextlib.suppress(StoreError), self._manifest.transaction():
            if self._recorded("seal") == seal and self._written() == generation:
                self._record(dirty=1)

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

    def _holds_up(self, written: int) -> bool:
        """Compares the count and asks for a sample of the vectors that were there at generation `written`."""
        total = int(self._recorded("count") or 0)
        if self._guarded(lambda chroma: chroma.count()) != total:
            return False
        rows = self._sample(total, _PROBES, written)
        return not rows or self._self_recall(rows) * _PROBES >= _PROBES_NEEDED

    def _sample(self, total: int, wanted: int, until: int) -> list[int]:
        """Rows spread evenly over those that were added by generation `until`."""
        sql = "SELECT id FROM chunks WHERE id % ? = 0 AND generation <= ? ORDER BY id LIMIT ?"
        step = max(1, total // max(wanted, 1))
        return [row[0] for row in self._manifest.execute(sql, (step, until, wanted))]

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

    def sync(self, *, thorough: bool = False) -> None:
        """Brings Chroma near enough to the manifest, rebuilt where dirty or damaged; needs the writer lock.

        Cheap where little changed: its files are then looked at, not opened. `thorough` reads and asks them.
        """
        with self._lock:
            chroma = self._chroma
            if chroma is None:
                return
            state = self.state(thorough=thorough)
            if state == "clean" and self._sealed(chroma):
                return
            chroma.rest()
            # Only what was closed cleanly is built upon; anything else starts over.
            since = self._written() if state != "damaged" and self._sealed(chroma) else -1
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
        total = self._manifest.count()

        def apply(index: ChromaIndex) -> bool:
            index.open(since)
            index.apply(changes)
            if index.count() != total:
                return False
            index.rest()
            return index.whole()

        if not self._guarded(apply):
            self._guarded(lambda c: c.rest())
            return False
        sealed = {"seal": chroma.seal(), "files": chroma.fingerprint(), "count": total}
        self._record(dirty=0, generation=changes.generation, **sealed)
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
        rows = self._sample(self._manifest.count(), sample, self._manifest.generation)
        vectors = self._manifest.vectors_of(rows)
        hits = sum(self.search(vector, 1)[0][1] >= _COSINE_OF_ITSELF for vector in vectors.values())
        return hits / len(vectors) if vectors else 1.0

    def close(self) -> None:
        """Lets go of Chroma's files."""
        with self._lock:
            if self._chroma is not None:
                self._guarded(lambda chroma: chroma.close())
