"""Nearest neighbours from Chroma, in a folder or on a server, with the exact index as its stand-in.

Chroma is treated as a disposable cache of the manifest. `NearestNeighbours` decides which index answers.
A dirty bit in the manifest is set before Chroma is written and cleared after its folder was closed and its
graph files were checked and recorded. Chroma is never opened if it is dirty or damaged: the next writer
deletes it and rebuilds it from the manifest's vectors, and the exact index answers until then.

Writing to Chroma costs as much as the graph is large, so it may lag behind the manifest by a share of the
store. An `IndexDelta` holds what changed since: rows that were added are compared exactly, rows that were
removed are left out. A document therefore costs the same to add to a graph of a thousand vectors as to one of
a million.

The file is in this order: checks of hnswlib's graph files, `ChromaServer` (HTTP), `ChromaIndex` (one
collection), `IndexDelta`, `NearestNeighbours`.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import math
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.errors import IndexUnavailable, StoreError
from chains.retrieval.index import DECIMALS, Changes, ExactIndex
from chains.retrieval.manifest import Manifest

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

logger = logging.getLogger(__name__)

T = TypeVar("T")
IndexKind = Literal["chroma", "exact"]
# (row, cosine), best first.
Scores = list[tuple[int, float]]

# Graph files -----------------------------------------------------------------------------------------------
#
# Chroma does not check whether a write to these files succeeded. On a full or failing disk it reports
# success for a graph that is cut short or holds whatever the memory held before, and searching such a graph
# kills the process. Every vector and every list of neighbours is therefore checked before the files are
# recorded as good. The layout is that of hnswlib's `saveIndex`, after a version number of Chroma's fork.

# The version; the offset of level 0, capacity, number of elements, bytes per element, offsets of label and
# vector; the highest level and the entry point; the most neighbours above level 0 and on level 0.
_HEADER = struct.Struct("<i6QiI2Q")
_VERSION = 1
_WORD = 4
_SHORTEST, _LONGEST = 0.98, 1.02


def graph_is_sound(folder: Path) -> bool:
    """Return whether the graph in `folder` can be searched safely; True if its layout is unknown."""
    try:
        header = (folder / "header.bin").read_bytes()
        if len(header) < _HEADER.size:
            return False
        version, first, _, elements, size, label, vector, _, entry, upper, lower = _HEADER.unpack_from(header)
        if version != _VERSION or not elements:
            return True
        level0 = np.fromfile(folder / "data_level0.bin", np.uint8, elements * size)
        if len(level0) < elements * size or entry >= elements:
            return False
        rows = level0.reshape(elements, size)
        lists = rows[:, first : first + _WORD * (1 + lower)]
        vectors = np.ascontiguousarray(rows[:, vector:label]).view(np.float32)
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(vectors, axis=1)
        # The store's vectors are unit vectors; bytes that are there by accident are not.
        if not ((norms > _SHORTEST) & (norms < _LONGEST)).all():
            return False
        return _lists_sound(lists, elements, lower) and _upper_levels_sound(
            folder / "link_lists.bin", elements, upper
        )
    except (OSError, ValueError):
        return False


def _lists_sound(lists: NDArray[np.uint8], elements: int, most: int) -> bool:
    """Return whether lists of neighbours, uint8 [n, 4 + 4 * most], have at most `most` valid entries each."""
    words = np.ascontiguousarray(lists).view(np.uint32)
    # The count is a 16-bit number; the byte after it marks an element as deleted.
    counts = words[:, 0] & 0xFFFF
    used = np.arange(most) < counts[:, None]
    return bool((counts <= most).all() and (words[:, 1:][used] < elements).all())


def _upper_levels_sound(path: Path, elements: int, most: int) -> bool:
    """Return the same for the levels above 0, where each element has a length in bytes and then its lists."""
    data = np.fromfile(path, np.uint8)
    place, width, rows = 0, _WORD * (1 + most), []
    for _ in range(elements):
        if place + _WORD > len(data):
            return False
        length = int.from_bytes(data[place : place + _WORD].tobytes(), "little")
        place += _WORD
        if length % width or place + length > len(data):
            return False
        if length:
            rows.append(data[place : place + length].reshape(-1, width))
        place += length
    return not rows or _lists_sound(np.concatenate(rows), elements, most)


# The server -------------------------------------------------------------------------------------------------

# Without this limit, a host that drops packets (or a proxy in front of one) would delay every search.
_CONNECT_S = 3.0
# A server writes five thousand vectors in a few seconds.
_ANSWER_S = 120.0


class ChromaServer:
    """The calls that an index needs from a Chroma server, with time limits.

    Chroma's own client has no time limits, sends five requests before the first useful one, and sends
    requests for the loopback interface to the proxy that the environment names. Its calls are made here over
    an httpx session of our own, which uses a proxy as httpx does, but never for the loopback interface.

    Args:
        url: `http://host:port` or `https://host:port`.

    Raises:
        IndexUnavailable: The server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        import httpx
        from chromadb.api.fastapi import FastAPI
        from chromadb.config import Settings, System

        self.url = url
        host, port, secure = _address(url)
        settings = Settings(
            anonymized_telemetry=False,
            chroma_server_host=host,
            chroma_server_http_port=port,
            chroma_server_ssl_enabled=secure,
        )
        self._system = System(settings)
        self._api = self._system.instance(FastAPI)
        theirs = self._api._session
        self._session = httpx.Client(
            headers=theirs.headers, limits=self._api.http_limits, trust_env=not is_loopback(host)
        )
        theirs.close()
        self._api._session = self._session
        self._limits = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        self._system.start()
        try:
            self.reach()
        except BaseException:
            self.close()
            raise

    def reach(self) -> None:
        """Check that the server answers; raise IndexUnavailable within seconds if it does not."""
        with self._as_unavailable():
            self._session.timeout = _CONNECT_S
            self._api.heartbeat()
            self._session.timeout = self._limits

    def get_or_create_collection(self, name: str, configuration: Any) -> Collection:
        """Return the collection of this name, creating it if necessary; raise IndexUnavailable."""
        from chromadb.api.models.Collection import Collection

        with self._as_unavailable():
            model = self._api.get_or_create_collection(name, configuration=configuration)
        return Collection(client=self._api, model=model, embedding_function=None)

    def delete_collection(self, name: str) -> None:
        """Delete the collection of this name if it exists, and nothing else."""
        from chromadb.errors import NotFoundError

        with contextlib.suppress(NotFoundError):
            self._api.delete_collection(name)

    def close(self) -> None:
        """Close every connection."""
        self._system.stop()
        self._session.close()

    @contextlib.contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise IndexUnavailable(
                f"expected a Chroma server at {self.url!r}, found {type(error).__name__} "
                f"{str(error)[:200]!r}; start it with `chroma run`, or leave out chroma="
            ) from error


def is_loopback(host: str) -> bool:
    """Return whether `host` is the name or address of this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower().rpartition(".")[2] == "localhost"


def _address(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether to use TLS, from a server's URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return parts.hostname or "127.0.0.1", parts.port or (443 if secure else 8000), secure


# One collection ---------------------------------------------------------------------------------------------

# These are the parameters of hnswlib's authors for a recall above 0.95 (Malkov and Yashunin 2016).
# `ef_search` is at least as large as the longest list that hybrid search asks for. The thresholds of 2 write
# every change through to the graph's files at once: Chroma applies writes that it has only logged whenever it
# is opened, even for reading, and this way a reader changes nothing but SQLite pages, in SQLite's own
# transactions.
_HNSW = {
    "space": "ip",
    "ef_construction": 128,
    "ef_search": 160,
    "max_neighbors": 16,
    "sync_threshold": 2,
    "batch_size": 2,
}
_BATCH = 5000


class ChromaIndex:
    """The vectors of one store in a Chroma collection that is named after the store's id.

    On a server, no other collection is ever written or deleted.

    Args:
        target: A folder, or the URL of a Chroma server (`http://host:port`).
        store_id: The id in the collection's name.
    """

    def __init__(self, target: str, store_id: str) -> None:
        self.target = target
        self.generation = -1
        self._name = f"mistral-agent-{store_id}"
        self._client: Any = None
        self._collection: Collection | None = None

    @property
    def remote(self) -> bool:
        """Whether the index is on a server."""
        return self.target.startswith(("http://", "https://"))

    def _open_client(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        logging.getLogger("chromadb.telemetry").setLevel(logging.CRITICAL)
        if self.remote:
            return ChromaServer(self.target)
        settings = Settings(anonymized_telemetry=False)
        try:
            return chromadb.PersistentClient(self.target, settings=settings)
        except BaseException:
            # A client that failed to start stays in Chroma's cache for this process. Creating it again and
            # closing it removes it from there.
            with contextlib.suppress(BaseException):
                broken: Any = chromadb.PersistentClient(self.target, settings=settings)
                broken.close()
            raise

    def open(self, generation: int) -> None:
        """Connect to the collection, creating it if necessary; raise IndexUnavailable."""
        if self._client is None or not self.remote:
            self.close()
            self._client = self._open_client()
        else:
            self._client.reach()
        self._attach()
        self.generation = generation

    def _attach(self) -> None:
        configuration: Any = {"hnsw": _HNSW}
        options = {} if self.remote else {"embedding_function": None}
        self._collection = self._client.get_or_create_collection(
            self._name, configuration=configuration, **options
        )

    def close(self) -> None:
        """Write everything to the files and close them."""
        client, self._client, self._collection = self._client, None, None
        self.generation = -1
        if client is not None:
            client.close()

    def release(self) -> None:
        """Close a folder's files, so that another process may write them; a server's connection is kept."""
        if self.remote:
            self.generation = -1
        else:
            self.close()

    def delete(self) -> None:
        """Delete the folder, or this store's collection on the server, and nothing else."""
        if self.remote:
            self._client = self._client or self._open_client()
            self._client.delete_collection(self._name)
            self.close()
            return
        self.close()
        shutil.rmtree(self.target, ignore_errors=True)

    def _graph_files(self) -> list[Path]:
        """Return the graph's files. Chroma's SQLite file is left out: every reader writes it, safely."""
        root = Path(self.target)
        return sorted(path for path in root.rglob("*") if path.is_file() and path.parent != root)

    def is_sound(self) -> bool:
        """Return whether every graph in the closed folder was written completely; True for a server."""
        folders = {path.parent for path in self._graph_files()} if not self.remote else set()
        return all(graph_is_sound(folder) for folder in folders)

    def fingerprint(self) -> str:
        """Return a digest of the sizes and times of the closed folder's graph files; "" for a server."""
        if self.remote:
            return ""
        digest = hashlib.blake2b(digest_size=20)
        digest.update(b"%d" % (Path(self.target) / "chroma.sqlite3").is_file())
        for path in self._graph_files():
            found = path.stat()
            facts = (path.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            digest.update(repr(facts).encode())
        return digest.hexdigest()

    def seal(self) -> str:
        """Return a digest of the content of the closed folder's graph files; "" for a server.

        This reads the whole graph, so it is used only if the fingerprint differs.
        """
        if self.remote:
            return ""
        digest = hashlib.blake2b(digest_size=20)
        root = Path(self.target)
        for path in self._graph_files():
            digest.update(str(path.relative_to(root)).encode() + b"\0")
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def _opened(self) -> Collection:
        if self._collection is None:
            raise IndexUnavailable(
                f"expected an open index at {self.target!r}, found it closed; open the store again"
            )
        return self._collection

    def apply(self, changes: Changes) -> None:
        """Delete and add rows in batches."""
        collection = self._opened()
        if changes.full and self._client is not None:
            self._client.delete_collection(self._name)
            self._attach()
            collection = self._opened()
        else:
            # Deleting an id that was never added is not an error, but it logs a warning.
            for part in _batches(list(changes.removed)):
                known = collection.get(ids=[str(row) for row in part], include=[])["ids"]
                if known:
                    collection.delete(ids=known)
        for first in range(0, len(changes.added), _BATCH):
            ids = [str(row) for row in changes.added[first : first + _BATCH]]
            collection.upsert(ids=ids, embeddings=changes.vectors[first : first + _BATCH])
        self._flush(collection)
        self.generation = changes.generation

    def _flush(self, collection: Collection) -> None:
        """Repeat two writes, so that even a single write before them passes the threshold, and read back."""
        known: Any = collection.get(limit=2, include=["embeddings"])
        if len(known["ids"]):
            collection.upsert(ids=known["ids"], embeddings=known["embeddings"])
            collection.query(query_embeddings=known["embeddings"][:1], n_results=1, include=[])

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """Return what `Index.search` describes, approximately."""
        found: Any = self._opened().query(query_embeddings=vector[None], n_results=k, include=["distances"])
        pairs = zip(found["ids"][0], found["distances"][0], strict=True)
        return [(int(row), round(1.0 - float(distance), DECIMALS)) for row, distance in pairs]

    def count(self) -> int:
        """Return the number of vectors in the collection."""
        return int(self._opened().count())


def _batches(rows: Sequence[int]) -> list[Sequence[int]]:
    return [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]


# Which index answers ----------------------------------------------------------------------------------------

# Rows that are asked for in addition, because they may have been removed.
_SPARE = 32


class IndexDelta:
    """The rows that were added and removed after generation `since`."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._added = ExactIndex()
        self._added.generation = since
        self._removed: set[int] = set()

    @property
    def size(self) -> int:
        """The number of rows that were added or removed."""
        return self._added.count() + len(self._removed)

    def update(self, manifest: Manifest, limit: int) -> bool:
        """Include the latest changes; return False if they exceed `limit` or are no longer recorded."""
        if self._added.generation != manifest.generation:
            if manifest.count_changes(self._added.generation) > limit:
                return False
            changes = manifest.changes(self._added.generation)
            if changes.full:
                return False
            self._removed.update(changes.removed)
            self._added.apply(changes)
        return self.size <= limit

    def search(
        self, vector: NDArray[np.float32], k: int, base: Callable[[int], Scores | None]
    ) -> Scores | None:
        """Return the `k` nearest rows; `base(k)` returns those as of `since`, or None if it fails."""
        kept: Scores = []
        # The graph is asked for a few rows more than wanted. If too many of them were removed, it is asked
        # again for as many more as were removed in total.
        for spare in sorted({min(len(self._removed), _SPARE), len(self._removed)}):
            before = base(k + spare)
            if before is None:
                return None
            kept = [(row, score) for row, score in before if row not in self._removed]
            if len(kept) >= k:
                break
        return sorted(kept + self._added.search(vector, k), key=lambda pair: (-pair[1], pair[0]))[:k]


# Self-queries on opening: a stored vector must find itself. An approximate graph may miss three of 32.
_PROBES = 32
_PROBES_NEEDED = 29
_COSINE_OF_ITSELF = 0.9999
# Chroma is brought up to date when a sixteenth of the store has changed, and used until twice that has.
_LAG_LEAST = 64
_LAG_SHARE = 16
# Seconds until a server that could not be reached is tried again.
_RETRY_S = 30.0


class NearestNeighbours:
    """Dense search over one manifest: Chroma if it is clean and current enough, else the exact index.

    Args:
        manifest: The source of all vectors.
        kind: "chroma" maintains and uses Chroma; "exact" never touches it.
        server: The URL of a Chroma server to use instead of the folder next to the manifest.
    """

    def __init__(self, manifest: Manifest, kind: IndexKind = "chroma", server: str | None = None) -> None:
        self._manifest = manifest
        self._lock = threading.RLock()
        self._exact = ExactIndex()
        self._chroma: ChromaIndex | None = None
        self._delta = IndexDelta(-1)
        # A Chroma that failed its checks is not tried again until its seal changes, or until this moment
        # (seconds of the monotonic clock).
        self._refused = ""
        self._retry_at = math.inf
        if kind == "chroma":
            # Chroma caches clients by path, and a relative path means another folder after a chdir.
            target = server or str(Path(manifest.folder).absolute() / "chroma")
            self._chroma = ChromaIndex(target, manifest.store_id)

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """Return (row, cosine) of the chunks nearest to a unit vector, float32 [dimension], best first."""
        with self._lock:
            if self._usable():
                found = self._delta.search(
                    vector, k, lambda wanted: self._guarded(lambda chroma: chroma.search(vector, wanted))
                )
                # A writer may have begun to change Chroma in the meantime. Then its answer does not count.
                if found is not None and self._written() == self._delta.since:
                    return found
            return self.exact().search(vector, k)

    def exact(self) -> ExactIndex:
        """Return the exact index, brought up to the manifest's generation."""
        with self._lock:
            if self._exact.generation != self._manifest.generation:
                self._exact.apply(self._manifest.changes(self._exact.generation))
            return self._exact

    def state(self, *, thorough: bool = False) -> str:
        """Return "exact" (Chroma is not used), "clean", "dirty", "stale", "damaged" or "unreachable".

        The last two are returned only if `thorough` is set, which reads every byte of Chroma's graph to find
        bits that flipped without changing its size and times, and opens it.
        """
        if self._chroma is None or self._avoided:
            return "exact"
        if self._recorded("dirty") == "1":
            return "dirty"
        written = self._written()
        if written < 0 or self._manifest.count_changes(written) > self._max_lag():
            return "stale"
        if not thorough:
            return "clean"
        if not self._chroma.remote and self._chroma.seal() != self._recorded("seal"):
            return "damaged"
        if self._chroma.remote:
            self._retry_at = 0.0  # a thorough check contacts the server now instead of waiting for the timer
        if self._usable():
            return "clean"
        return "unreachable" if self._chroma.remote else "damaged"

    @property
    def _avoided(self) -> bool:
        """Whether Chroma cannot be used because it writes when it reads, and the store is read-only."""
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
        """Return the generation that Chroma was written at; -1 if it is dirty or was never written."""
        return int(self._recorded("generation") or -1) if self._recorded("dirty") == "0" else -1

    def _max_lag(self) -> int:
        """Return how many rows may change before Chroma is written again."""
        return max(_LAG_LEAST, int(self._recorded("count") or 0) // _LAG_SHARE)

    def _usable(self) -> bool:
        """Return whether Chroma and the delta together show the manifest; open Chroma if that is safe."""
        chroma = self._chroma
        if chroma is None or self._avoided:
            return False
        written = self._written()
        if self._delta.since != written:
            self._delta = IndexDelta(written)
        if written < 0 or not self._delta.update(self._manifest, 2 * self._max_lag()):
            self._delta = IndexDelta(-1)
            self._guarded(lambda chroma: chroma.release())
            return False
        if chroma.generation == written:
            return True
        self._guarded(lambda chroma: chroma.release())
        seal = self._recorded("seal")
        if self._refused == f"{written} {seal}" and time.monotonic() < self._retry_at:
            return False
        return self._try_to_open(chroma, written, seal)

    def _try_to_open(self, chroma: ChromaIndex, written: int, seal: str) -> bool:
        """Open Chroma if its files are unchanged since they were closed, and check its answers."""
        if not self._unchanged(chroma):
            self._refuse(written, seal, "its files are not the ones that were closed")
        elif self._guarded(lambda chroma: chroma.open(written)) is False or chroma.generation < 0:
            # A server may be back in a minute with all its data.
            self._refuse(written, seal, "it cannot be opened", lasting=not chroma.remote)
        elif not self._passes_checks(written):
            self._guarded(lambda chroma: chroma.release())
            self._refuse(written, seal, "it does not find what the manifest holds")
        else:
            self._refused = ""
            return True
        return False

    def _unchanged(self, chroma: ChromaIndex) -> bool:
        """Return whether the files are as they were closed, by their times and sizes or by their content."""
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
        # The next writer, in whatever process, rebuilds it. A read-only store cannot record this.
        with contextlib.suppress(StoreError), self._manifest.transaction():
            if self._recorded("seal") == seal and self._written() == generation:
                self._record(dirty=1)

    def _guarded(self, action: Callable[[ChromaIndex], T]) -> T | None:
        """Run `action`; return None if Chroma fails, even with a Rust panic."""
        assert self._chroma is not None
        try:
            return action(self._chroma)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            logger.debug("chroma failed: %s", error)
            self._chroma.generation = -1
            return None

    def _passes_checks(self, written: int) -> bool:
        """Compare the count and query a sample of the vectors that existed at generation `written`."""
        total = int(self._recorded("count") or 0)
        if self._guarded(lambda chroma: chroma.count()) != total:
            return False
        rows = self._manifest.sample(total, _PROBES, written)
        return not rows or self._self_recall(rows) * _PROBES >= _PROBES_NEEDED

    def _self_recall(self, rows: list[int]) -> float:
        """Return the share of rows whose own vector finds itself, or an equal one, first."""
        vectors = self._manifest.vectors(rows)
        hits = 0
        for vector in vectors.values():
            found = self._guarded(lambda chroma, vector=vector: chroma.search(vector, 1))  # type: ignore[misc]
            hits += bool(found and found[0][1] >= _COSINE_OF_ITSELF)
        return hits / len(vectors) if vectors else 1.0

    def check_server(self) -> None:
        """Raise IndexUnavailable if a Chroma server is used but cannot be reached. Call it before writing."""
        if self._chroma is not None and self._chroma.remote:
            self._chroma.open(-1)

    def sync(self, *, thorough: bool = False) -> None:
        """Bring Chroma up to date, or rebuild it if it is dirty or damaged; the caller has the writer lock.

        If little changed this only compares the times and sizes of its files. `thorough` reads and queries
        them.
        """
        with self._lock:
            chroma = self._chroma
            if chroma is None:
                return
            state = self.state(thorough=thorough)
            if state == "clean" and self._unchanged(chroma):
                return
            chroma.release()
            # Only an index that was closed cleanly is updated; any other is rebuilt.
            since = self._written() if state != "damaged" and self._unchanged(chroma) else -1
            if not self._write(since) and not (since >= 0 and self._write(-1)):
                raise IndexUnavailable(
                    f"expected to write the Chroma index at {chroma.target!r}, found it failing; the "
                    "documents are stored and the exact index answers: free some space, then call "
                    "`store.verify(repair=True)`",
                    hint="store.verify(repair=True)",
                )

    def _write(self, since: int) -> bool:
        chroma = self._chroma
        assert chroma is not None
        changes = self._manifest.changes(since)
        self._record(dirty=1)
        if changes.full or since < 0:
            self._guarded(lambda c: c.delete())
        total = self._manifest.count()

        def apply(index: ChromaIndex) -> bool:
            index.open(since)
            index.apply(changes)
            if index.count() != total:
                return False
            index.release()
            return index.is_sound()

        if not self._guarded(apply):
            self._guarded(lambda c: c.release())
            return False
        sealed = {"seal": chroma.seal(), "files": chroma.fingerprint(), "count": total}
        self._record(dirty=0, generation=changes.generation, **sealed)
        self._refused = ""
        return True

    def rebuild(self) -> None:
        """Delete Chroma and build it from the manifest; the caller has the writer lock."""
        with self._lock:
            if self._chroma is not None and not self._write(-1):
                raise IndexUnavailable(
                    f"expected to rebuild the Chroma index at {self._chroma.target!r}, found it failing; "
                    "free some space, then call `store.verify(repair=True)`",
                    hint="store.verify(repair=True)",
                )

    def recall(self, sample: int = 200) -> float:
        """Return the self-query recall of the index that answers, over an even sample of the vectors."""
        rows = self._manifest.sample(self._manifest.count(), sample, self._manifest.generation)
        vectors = self._manifest.vectors(rows)
        hits = sum(self.search(vector, 1)[0][1] >= _COSINE_OF_ITSELF for vector in vectors.values())
        return hits / len(vectors) if vectors else 1.0

    def close(self) -> None:
        """Close Chroma's files."""
        with self._lock:
            if self._chroma is not None:
                self._guarded(lambda chroma: chroma.close())
