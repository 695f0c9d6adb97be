"""Nearest neighbours from Chroma, in a folder or on a server, with the exact index as its stand-in.

Chroma holds immutable segments. The writer builds one from the manifest's vectors in a new folder, checks it,
renames it into place and records it in the manifest; it is never changed afterwards. What came later is a
delta: rows that were added are compared exactly, rows that were removed are left out. When the delta passes a
fifth of the segment, the writer builds the next one, so that adding documents costs O(log n) for each.

Chroma runs in a child process (`chroma_process.py`), so a damaged segment or a full disk can end the child
only. A segment is used if its count is right and stored vectors find themselves in it. If that fails, the
exact index answers, and the next writer builds a new segment.

The file is in this order: `ChromaProcess`, `SegmentFiles` (a folder or a server), `IndexDelta`,
`NearestNeighbours` (which index answers).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.database import store_errors
from chains.retrieval.errors import IndexUnavailable, StoreError
from chains.retrieval.index import Changes, ExactIndex
from chains.retrieval.manifest import Manifest

logger = logging.getLogger(__name__)

IndexKind = Literal["chroma", "exact"]
# (row, cosine), best first.
Scores = list[tuple[int, float]]
Vectors = NDArray[np.float32]

# The process that runs Chroma -------------------------------------------------------------------------------

# A batch of 5,000 vectors takes seconds, and a graph of a million takes tens of seconds to open.
_ANSWER_S = 180.0
_SCRIPT = Path(__file__).with_name("chroma_process.py")


class ChromaFailed(Exception):
    """Chroma did not do what it was asked; `unreachable` is set if its server does not answer."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class ChromaProcess:
    """The child process that runs Chroma for all stores of this process, started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._owner = 0
        # How many stores have opened each folder, since the child started.
        self._users: Counter[str] = Counter()

    @property
    def child(self) -> int:
        """The process id of the child, or 0 without one. What a child had opened, its successor has not."""
        alive = self._owner == os.getpid() and self._child is not None and self._child.poll() is None
        return self._child.pid if alive and self._child is not None else 0

    def start(self) -> None:
        """Start the child unless it runs; does not wait for it."""
        with self._lock:
            if self.child:
                return
            if self._owner != os.getpid():  # a forked process must not use its parent's child
                self._child = self._connection = None
                atexit.register(self.stop)
            self.stop()
            ours, theirs = socket.socketpair()
            with theirs:
                # -P keeps this folder, whose modules are named like libraries, off the child's path.
                command = [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())]
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # Ctrl-C is for this process; the child ends with it
                )
            self._connection = Connection(ours.detach())
            self._owner = os.getpid()
            self._users.clear()

    def stop(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            child, self._child = self._child, None
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            if child is not None and self._owner == os.getpid():
                child.kill()
                child.wait()

    def ask(self, action: str, values: dict[str, Any], vectors: Vectors | None = None) -> dict[str, Any]:
        """Return the child's answer to one request; raise ChromaFailed if it fails or dies."""
        request: dict[str, Any] = {"do": action, **values}
        if vectors is not None:
            request["dimension"] = vectors.shape[1]
        with self._lock:
            self.start()
            assert self._connection is not None
            try:
                self._connection.send_bytes(json.dumps(request).encode())
                if vectors is not None:
                    self._connection.send_bytes(np.ascontiguousarray(vectors, np.float32).data.cast("B"))
                if not self._connection.poll(_ANSWER_S):
                    raise TimeoutError(f"no answer within {_ANSWER_S:.0f} s")
                answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError) as error:
                self.stop()
                raise ChromaFailed(f"its process ended ({error or type(error).__name__})") from error
            except BaseException:
                self.stop()  # the answer to this request must not be taken for the next one's
                raise
        if "unreachable" in answer:
            raise ChromaFailed(str(answer["unreachable"]), unreachable=True)
        if "failed" in answer:
            raise ChromaFailed(str(answer["failed"]))
        return answer

    def open(self, place: str, name: str) -> int:
        """Open a collection and return its count; call `close` once for each call."""
        with self._lock:
            count = int(self.ask("open", {"place": place, "name": name})["count"])
            self._users[place] += 1
            return count

    def close(self, place: str, child: int) -> None:
        """Close what was opened in `child`, unless another store still uses it."""
        with self._lock:
            if child and child == self.child:
                self._users[place] -= 1
                if self._users[place] <= 0:
                    del self._users[place]
                    with contextlib.suppress(ChromaFailed):
                        self.ask("close", {"place": place})


_process = ChromaProcess()


# Segments ---------------------------------------------------------------------------------------------------

_BATCH = 5000


@dataclass(frozen=True, slots=True)
class IndexSegment:
    """An immutable index of the `count` chunks that were visible at `generation`."""

    name: str
    generation: int
    count: int


class SegmentFiles:
    """The segments of one store: folders in `index/` next to the manifest, or collections on a server.

    On a server, only collections whose names start with this store's id are ever written or deleted.

    Args:
        folder: The store's folder.
        store_id: The id in the names of collections.
        server: The URL of a Chroma server (`http://host:port`), or None.
    """

    def __init__(self, folder: Path, store_id: str, server: str | None) -> None:
        # Chroma caches clients by path, and a relative path means another folder after a chdir.
        self.root = folder.absolute() / "index"
        self.server = server
        self._prefix = f"mistral-agent-{store_id}"

    @property
    def where(self) -> str:
        """The place in words: the server's URL, or the folder."""
        return self.server or str(self.root)

    def _place(self, name: str) -> dict[str, str]:
        if self.server is not None:
            return {"place": self.server, "name": f"{self._prefix}-{name}"}
        return {"place": str(self.root / name), "name": "chunks"}

    def exists(self, segment: IndexSegment) -> bool:
        """Return whether the segment's folder is there; a server is not asked."""
        return self.server is not None or (self.root / segment.name).is_dir()

    def open(self, segment: IndexSegment) -> None:
        """Open a segment; raise ChromaFailed if that fails or the number of its vectors is wrong."""
        if not self.exists(segment):  # Chroma would make an empty folder
            raise ChromaFailed("its folder is gone")
        count = _process.open(**self._place(segment.name))
        if count != segment.count:
            self.close(segment.name, _process.child)
            raise ChromaFailed(f"it holds {count} vectors instead of {segment.count}")

    def search(self, name: str, vectors: Vectors, k: int) -> list[Scores]:
        """Return the `k` rows nearest to each of `vectors`, float32 [n, dimension], approximately."""
        found = _process.ask("search", {**self._place(name), "k": k}, vectors)
        pairs = zip(found["rows"], found["scores"], strict=True)
        return [list(zip(rows, scores, strict=True)) for rows, scores in pairs]

    def wrong(self, name: str, rows: NDArray[np.int64], vectors: Vectors) -> int:
        """Return how many of the rows an open segment does not hold with these vectors."""
        place = self._place(name)
        return sum(
            int(_process.ask("compare", {**place, "rows": numbers}, part)["wrong"])
            for numbers, part in _batches(rows, vectors)
        )

    def build(self, name: str, changes: Changes) -> IndexSegment:
        """Write the rows of `changes` as a new segment; raise ChromaFailed. Nothing else is changed.

        A folder appears under its name only when its files are complete and synced.
        """
        if self.server is not None:
            self._fill(self._place(name), changes)
        else:
            building = self.root / f"building-{name}"
            try:
                self.root.mkdir(exist_ok=True)
                self._fill({"place": str(building), "name": "chunks"}, changes)
                for path in [*building.rglob("*"), building]:
                    _sync(path)
                building.rename(self.root / name)
                _sync(self.root)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        return IndexSegment(name, changes.generation, len(changes.added))

    def _fill(self, place: dict[str, str], changes: Changes) -> None:
        _process.ask("create", place)
        for numbers, part in _batches(changes.added, changes.vectors):
            _process.ask("add", {**place, "rows": numbers}, part)
        count = _process.ask("finish", place)["count"]
        if count != len(changes.added):
            raise ChromaFailed(f"it holds {count} vectors instead of {len(changes.added)}")

    def delete(self, name: str) -> None:
        """Delete a segment's folder; a server is left alone, since it may be what failed."""
        if self.server is None:
            shutil.rmtree(self.root / name, ignore_errors=True)

    def delete_others(self, keep: str) -> None:
        """Delete every segment but `keep`, with what older versions and killed writers left."""
        if self.server is not None:
            _process.ask(
                "drop", {"place": self.server, "prefix": self._prefix, "keep": f"{self._prefix}-{keep}"}
            )
            return
        for path in [*self.root.glob("*"), self.root.with_name("chroma")]:
            if path.name != keep:
                shutil.rmtree(path, ignore_errors=True)

    def reach(self) -> None:
        """Raise ChromaFailed if there is a server and it does not answer."""
        if self.server is not None:
            _process.ask("reach", {"place": self.server})

    def close(self, name: str, child: int) -> None:
        """Close a segment that was opened in `child`."""
        _process.close(self._place(name)["place"], child)


def _batches(rows: NDArray[np.int64], vectors: Vectors) -> Iterator[tuple[list[int], Vectors]]:
    for first in range(0, len(rows), _BATCH):
        yield rows[first : first + _BATCH].tolist(), vectors[first : first + _BATCH]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What changed since a segment was built ---------------------------------------------------------------------

# Rows that are asked for in addition, because they may have been removed.
_SPARE = 32


class IndexDelta:
    """The rows that were added and removed after generation `since`."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._added = ExactIndex()
        self._added.generation = since
        self._removed: set[int] = set()

    def update(self, manifest: Manifest) -> bool:
        """Include the latest changes; return False if they are no longer recorded."""
        if self._added.generation != manifest.generation:
            changes = manifest.changes(self._added.generation)
            if changes.full:
                return False
            self._removed.update(changes.removed)
            self._added.apply(changes)
        return True

    def without(self, changes: Changes) -> tuple[NDArray[np.int64], Vectors]:
        """Return the rows and vectors of `changes` that this delta does not add."""
        old = np.array([not self._added.has(row) for row in changes.added.tolist()], bool)
        return changes.added[old], changes.vectors[old]

    def search(self, vector: Vectors, k: int, base: Callable[[int], Scores]) -> Scores:
        """Return the `k` nearest rows; `base(k)` returns those as of `since`."""
        kept: Scores = []
        # The graph is asked for a few rows more than wanted. If too many of them were removed, it is asked
        # again for as many more as were removed in total.
        for spare in sorted({min(len(self._removed), _SPARE), len(self._removed)}):
            kept = [(row, score) for row, score in base(k + spare) if row not in self._removed]
            if len(kept) >= k:
                break
        return sorted(kept + self._added.search(vector, k), key=lambda pair: (-pair[1], pair[0]))[:k]


# Which index answers ----------------------------------------------------------------------------------------

# Self-queries on opening: a stored vector must find itself. An approximate graph may miss three of 32.
_PROBES = 32
_PROBES_NEEDED = 29
_COSINE_OF_ITSELF = 0.9999
# The next segment is built when more rows than this, and than a fifth of the segment, have changed.
_DELTA_LEAST = 1000
_DELTA_SHARE = 5
# Chunks of an older store that are indexed when it is opened: some seconds, once.
_BROUGHT_OVER = 5000


class NearestNeighbours:
    """Dense search over one manifest: a Chroma segment and what changed since, else the exact index.

    Args:
        manifest: The source of all vectors.
        kind: "chroma" builds and uses segments; "exact" never touches Chroma.
        server: The URL of a Chroma server that holds the segments instead of the store's folder.
    """

    def __init__(self, manifest: Manifest, kind: IndexKind = "chroma", server: str | None = None) -> None:
        self._manifest = manifest
        self._lock = threading.RLock()
        self._exact = ExactIndex()
        self._delta = IndexDelta(-1)
        self._opened: tuple[str, int] | None = None  # a segment's name and the child that opened it
        self._failed = ""  # the segment that failed since it was opened
        # A segment that failed is not tried again, nor is a server, until the manifest changes.
        self._refused: tuple[str, int] | None = None
        self._files: SegmentFiles | None = None
        if kind == "chroma" and importlib.util.find_spec("chromadb") is not None:
            self._files = SegmentFiles(manifest.folder, manifest.store_id, server)

    # Searching

    def prepare(self) -> None:
        """Start Chroma's process, without waiting for it, if the next search will need it."""
        if self._usable and (segment := self._recorded()) and self._opened is None:
            if self._refused is None or self._refused[0] != segment.name:
                _process.start()

    def search(self, vector: Vectors, k: int) -> Scores:
        """Return (row, cosine) of the chunks nearest to a unit vector, float32 [dimension], best first."""
        with self._lock:
            segment, files = self._ready(), self._files
            if segment is not None and files is not None:
                try:
                    return self._delta.search(
                        vector, k, lambda wanted: files.search(segment.name, vector[None], wanted)[0]
                    )
                except ChromaFailed as error:
                    # The child may have died of another store's segment. Only a second failure counts.
                    self._close()
                    if self._failed == segment.name:
                        self._refuse(segment, error)
                    self._failed = segment.name
            return self.exact().search(vector, k)

    def exact(self) -> ExactIndex:
        """Return the exact index, brought up to the manifest's generation."""
        with self._lock:
            if self._exact.generation != self._manifest.generation:
                self._exact.apply(self._manifest.changes(self._exact.generation))
            return self._exact

    @property
    def _usable(self) -> bool:
        """Whether Chroma may be used. It writes to its folder even to read, so a read-only store has none."""
        return self._files is not None and (self._files.server is not None or not self._manifest.read_only)

    @property
    def _key(self) -> str:
        assert self._files is not None
        return f"segment:{self._files.server or 'folder'}"

    def _recorded(self) -> IndexSegment | None:
        """Return the segment that the manifest names, or None."""
        found = self._manifest.meta(self._key)
        return IndexSegment(**json.loads(found)) if found else None

    def _ready(self) -> IndexSegment | None:
        """Return the segment if it is open and, together with the delta, shows the manifest; else None."""
        if not self._usable:
            return None
        segment = self._recorded()
        if segment is None:
            self._miss_server()
            return None
        if self._delta.since != segment.generation:
            self._delta = IndexDelta(segment.generation)
        if not self._delta.update(self._manifest):
            return None
        if self._opened == (segment.name, _process.child):
            return segment
        if self._is_refused(segment.name):
            return None
        try:
            self._open(segment)
        except ChromaFailed as error:
            self._refuse(segment, error)
            return None
        return segment

    def _open(self, segment: IndexSegment) -> None:
        """Open a segment and check that stored vectors find themselves; raise ChromaFailed."""
        assert self._files is not None
        self._close()
        self._files.open(segment)
        self._opened = (segment.name, _process.child)
        rows = self._manifest.sample(segment.count, _PROBES, segment.generation)
        vectors = self._manifest.vectors(rows)
        if vectors:
            answers = self._files.search(segment.name, np.array(list(vectors.values())), 1)
            found = sum(bool(scores) and scores[0][1] >= _COSINE_OF_ITSELF for scores in answers)
            if found * _PROBES < _PROBES_NEEDED * len(vectors):
                self._close()
                raise ChromaFailed(f"{found} of {len(vectors)} stored vectors find themselves")
        self._refused = None

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and self._files is not None:
            self._files.close(*opened)

    def _is_refused(self, name: str) -> bool:
        if self._refused is None or self._refused[0] != name:
            return False
        # Somebody who writes to the store has reached the server.
        return self._files is None or not self._files.server or self._refused[1] == self._manifest.generation

    def _refuse(self, segment: IndexSegment, error: ChromaFailed) -> None:
        assert self._files is not None
        self._close()
        self._refused = (segment.name, self._manifest.generation)
        self._warn(f"the Chroma index at {self._files.where} is not used: {error}")
        if error.unreachable:
            return  # a server may be back in a minute with all its data
        # The next writer, in whatever process, builds a new one. A read-only store cannot record this.
        with contextlib.suppress(StoreError), self._manifest.transaction():
            if self._recorded() == segment:
                self._manifest.delete_meta(self._key)

    def _miss_server(self) -> None:
        """Say once that a server was named and does not hold the store's index."""
        assert self._files is not None
        if self._files.server is None or self._refused is not None or self._manifest.empty:
            return
        self._refused = ("", self._manifest.generation)
        try:
            self._files.reach()
            self._warn(f"the Chroma server at {self._files.where} does not hold this store's index")
        except ChromaFailed as error:
            self._warn(f"the Chroma server at {self._files.where} is not used: {error}")

    @staticmethod
    def _warn(what: str) -> None:
        logger.warning("%s; the exact index answers until the next ingest", what)

    # Building

    def check_server(self) -> None:
        """Raise IndexUnavailable if a Chroma server is used but cannot be reached. Call it before writing."""
        if self._files is not None:
            try:
                self._files.reach()
            except ChromaFailed as error:
                raise IndexUnavailable(
                    f"expected a Chroma server at {self._files.where!r}, found {error}; start it with "
                    "`chroma run`, or leave out chroma="
                ) from error

    def sync(self, *, thorough: bool = False) -> None:
        """Build the next segment if enough has changed; the caller has the writer lock.

        `thorough` also builds one if the present one is damaged, which reads all of it.
        """
        with self._lock:
            if self.state(thorough=thorough) not in ("exact", "clean"):
                self.rebuild()

    def bring_over(self) -> None:
        """Build the first segment of a store whose Chroma folder an earlier version changed in place.

        A large store waits for its next ingest, because building takes as long as reading a few documents
        for each thousand chunks. The caller has the writer lock.
        """
        if self.left_by_older_version:
            self.rebuild()

    @property
    def left_by_older_version(self) -> bool:
        """Whether there is a Chroma folder of an earlier version, and few enough chunks to bring it over."""
        old = self._manifest.folder / "chroma"
        if not (self._usable and self._files and not self._files.server and old.is_dir()):
            return False
        return self._recorded() is None and 0 < self._manifest.count() <= _BROUGHT_OVER

    def rebuild(self) -> None:
        """Build a new segment from the manifest; the caller has the writer lock."""
        files = self._files
        if files is None or not self._usable:
            return
        with self._lock:
            changes = self._manifest.changes(-1)
            name = f"{changes.generation:08d}-{secrets.token_hex(4)}"
            try:
                with store_errors(self._manifest.folder):
                    segment = files.build(name, changes)
                self._open(segment)
            except ChromaFailed as error:
                files.delete(name)
                raise IndexUnavailable(
                    f"expected to build the Chroma index at {files.where!r}, found that it failed: {error}; "
                    "the documents are stored and the exact index answers: free some space, then call "
                    "`store.verify(repair=True)`",
                    hint="store.verify(repair=True)",
                ) from error
            self._manifest.set_meta(**{self._key: json.dumps(asdict(segment))})
            with contextlib.suppress(ChromaFailed):
                files.delete_others(name)

    # Checking

    def state(self, *, thorough: bool = False) -> str:
        """Return "exact" (Chroma is not used), "clean", "stale", "damaged" or "unreachable".

        A stale index is missing, or too much has changed since it was built. The last two are returned only
        if `thorough` is set, which compares every vector that it holds.
        """
        if not self._usable:
            return "exact"
        assert self._files is not None
        if self._manifest.empty:
            return "clean"
        segment = self._recorded()
        if segment is None or not self._files.exists(segment):
            return "stale"
        changed = self._manifest.count_changes(segment.generation)
        if changed > max(_DELTA_LEAST, segment.count // _DELTA_SHARE):
            return "stale"
        return self._thorough_state(segment) if thorough else "clean"

    def _thorough_state(self, segment: IndexSegment) -> str:
        assert self._files is not None
        with self._lock:
            try:
                self._open(segment)
                delta = IndexDelta(segment.generation)
                delta.update(self._manifest)
                rows, vectors = delta.without(self._manifest.changes(-1))
                return "damaged" if self._files.wrong(segment.name, rows, vectors) else "clean"
            except ChromaFailed as error:
                return "unreachable" if error.unreachable else "damaged"

    def recall(self, sample: int = 200) -> float:
        """Return the self-query recall of the index that answers, over an even sample of the vectors."""
        rows = self._manifest.sample(self._manifest.count(), sample, self._manifest.generation)
        vectors = self._manifest.vectors(rows)
        hits = sum(self.search(vector, 1)[0][1] >= _COSINE_OF_ITSELF for vector in vectors.values())
        return hits / len(vectors) if vectors else 1.0

    def close(self) -> None:
        """Close the segment's files."""
        with self._lock:
            self._close()
