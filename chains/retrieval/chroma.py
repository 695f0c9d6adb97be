"""Whether the files of an hnswlib graph can be walked without leaving them.

Chroma does not look at whether a write to these files succeeded: on a full or failing disk it reports success
over a graph that is cut short or holds what the memory held before, and searching that kills the process. So
every vector and every list of neighbours is checked before the files are sealed. Knows hnswlib's layout
(`saveIndex`, with the version that Chroma's fork puts before it) and nothing of Chroma.

A Chroma server over HTTP: reached at once or not at all, never through a proxy on this very machine.

Knows chromadb's HTTP calls and httpx. Refuses to know collections' contents. Chroma's own client sets itself
no limit of time, asks five questions before the first, and sends what is meant for the loopback interface to
the proxy that the environment names; its calls are made here over a session of ours.

Nearest neighbours from Chroma: a folder of its own, or one collection of a Chroma server.

Knows chromadb and rows. Refuses to be trusted: it holds nothing that the manifest does not, and its keeper
(nearest.py) opens it only when it was closed cleanly. On a server, only the collection that carries the
store's id is ever written or deleted.

What changed since an index was written: rows added are compared exactly, rows removed left out.

Knows rows, vectors and the manifest's changes. With it a graph that lags behind still answers as the store is
now, so that a document costs the same to add whether the graph holds a thousand vectors or a million.

Decides which index answers: Chroma where it is clean and current, else the exact one.

Knows generations and the dirty bit. The bit is set in the manifest before Chroma is written and cleared after
its folder was closed and sealed; a dirty or damaged Chroma is never opened: it is deleted and rebuilt from
the manifest's vectors by the next writer, and the exact index answers until then. Chroma may lag behind the
manifest by a share of the store, since writing to it costs as much as it is large: what changed meanwhile is
compared exactly (recent.py).
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

# version; offset of level 0, room, elements, bytes an element, offsets of label and vector; highest level,
# entry; most neighbours above level 0, and on it
_HEADER = struct.Struct("<i6QiI2Q")
_VERSION = 1
_WORD = 4
_SHORTEST, _LONGEST = 0.98, 1.02


def whole(folder: Path) -> bool:
    """Whether the graph in `folder` is sound; True where its layout is not a known one."""
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
        # The store's vectors are unit vectors; what stands there by accident is not.
        if not ((norms > _SHORTEST) & (norms < _LONGEST)).all():
            return False
        return _sound(lists, elements, lower) and _upper_sound(folder / "link_lists.bin", elements, upper)
    except (OSError, ValueError):
        return False


def _sound(lists: NDArray[np.uint8], elements: int, most: int) -> bool:
    """Whether lists of neighbours, uint8 [n, 4 + 4 * most], count at most `most` and name elements only."""
    words = np.ascontiguousarray(lists).view(np.uint32)
    # The count is a short; the byte behind it marks an element as deleted.
    counts = words[:, 0] & 0xFFFF
    used = np.arange(most) < counts[:, None]
    return bool((counts <= most).all() and (words[:, 1:][used] < elements).all())


def _upper_sound(path: Path, elements: int, most: int) -> bool:
    """The same of the levels above: one stretch an element, which tells its length in bytes first."""
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
    return not rows or _sound(np.concatenate(rows), elements, most)


# A host that swallows packets, or a proxy in front of one, would hold up every search.
_REACH_S = 3.0
# A server writes five thousand vectors in a few seconds.
_ANSWER_S = 120.0


class ChromaServer:
    """The calls that an index needs of the server at `url` (`http://host:port`); a proxy as httpx finds it.

    Raises:
        IndexUnavailable: it cannot be reached.
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
        self._limits = httpx.Timeout(_ANSWER_S, connect=_REACH_S)
        self._system.start()
        try:
            self.reach()
        except BaseException:
            self.close()
            raise

    def reach(self) -> None:
        """Asks the server whether it is there; raises IndexUnavailable within seconds where it is not."""
        with self._named():
            self._session.timeout = _REACH_S
            self._api.heartbeat()
            self._session.timeout = self._limits

    def get_or_create_collection(self, name: str, configuration: Any) -> Collection:
        """The collection of this name, made where it is not there; raises IndexUnavailable."""
        from chromadb.api.models.Collection import Collection

        with self._named():
            model = self._api.get_or_create_collection(name, configuration=configuration)
        return Collection(client=self._api, model=model, embedding_function=None)

    def delete_collection(self, name: str) -> None:
        """Deletes the collection of this name, if it is there, and nothing else."""
        from chromadb.errors import NotFoundError

        with contextlib.suppress(NotFoundError):
            self._api.delete_collection(name)

    def close(self) -> None:
        """Closes every connection."""
        self._system.stop()
        self._session.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise IndexUnavailable(
                f"expected a Chroma server at {self.url!r}, found {type(error).__name__} "
                f"{str(error)[:200]!r}; start it with `chroma run`, or leave out --chroma"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's loopback interface, by its name or its address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower().rpartition(".")[2] == "localhost"


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether to speak TLS, out of the server's URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return parts.hostname or "127.0.0.1", parts.port or (443 if secure else 8000), secure


# The graph as hnswlib's authors set it for recall over 0.95 (Malkov and Yashunin 2016), the beam of a search
# at least as wide as the widest list that hybrid search asks for. Chroma applies writes that it has only
# noted whenever it is opened, for reading too. With every write carried through to the graph's files at once,
# a reader changes nothing but SQLite pages, in SQLite's own transactions.
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
    """The store's vectors as one Chroma collection named by the store's id.

    Args:
        target: a folder, or the URL of a Chroma server (`http://host:port`).
        store_id: what names the collection.
    """

    def __init__(self, target: str, store_id: str) -> None:
        self.target = target
        self.generation = -1
        self._name = f"mistral-agent-{store_id}"
        self._client: Any = None
        self._collection: Collection | None = None

    @property
    def remote(self) -> bool:
        """Whether the index lives in a server."""
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
            # What failed to start stays in Chroma's cache for the process; asking again takes it out.
            with contextlib.suppress(BaseException):
                broken: Any = chromadb.PersistentClient(self.target, settings=settings)
                broken.close()
            raise

    def open(self, generation: int) -> None:
        """Connects to the collection, made where it is not there; raises IndexUnavailable."""
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
        """Writes out and lets go of the files."""
        client, self._client, self._collection = self._client, None, None
        self.generation = -1
        if client is not None:
            client.close()

    def rest(self) -> None:
        """Lets go of a folder's files, which another process may write now; keeps a server's connection."""
        if self.remote:
            self.generation = -1
        else:
            self.close()

    def destroy(self) -> None:
        """Deletes the folder, or this store's collection on the server, and nothing else."""
        if self.remote:
            self._client = self._client or self._open_client()
            self._client.delete_collection(self._name)
            self.close()
            return
        self.close()
        shutil.rmtree(self.target, ignore_errors=True)

    def _graph_files(self) -> list[Path]:
        """The graph's files; Chroma's SQLite file, which every reader writes to, SQLite looks after."""
        root = Path(self.target)
        return sorted(path for path in root.rglob("*") if path.is_file() and path.parent != root)

    def whole(self) -> bool:
        """Whether every graph of the closed folder was written to its end; a server looks after its own."""
        folders = {path.parent for path in self._graph_files()} if not self.remote else set()
        return all(whole(folder) for folder in folders)

    def fingerprint(self) -> str:
        """Sizes and times of the closed folder's graph files: equal means untouched; empty for a server."""
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
        """A digest of the closed folder's graph files, by which a damaged one is told; empty for a server.

        Costs as much as the graph is large: asked only where the fingerprint differs.
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
        """Deletes and adds rows, a batch at a time."""
        collection = self._opened()
        if changes.full and self._client is not None:
            self._client.delete_collection(self._name)
            self._attach()
            collection = self._opened()
        else:
            # Deleting an id that was never added is no error, but a warning for each.
            for part in _batches(list(changes.removed)):
                known = collection.get(ids=[str(row) for row in part], include=[])["ids"]
                if known:
                    collection.delete(ids=known)
        for first in range(0, len(changes.added), _BATCH):
            ids = [str(row) for row in changes.added[first : first + _BATCH]]
            collection.upsert(ids=ids, embeddings=changes.vectors[first : first + _BATCH])
        self._carry_through(collection)
        self.generation = changes.generation

    def _carry_through(self, collection: Collection) -> None:
        """Repeats two writes, so that even a single one before them passes the threshold, and reads back."""
        known: Any = collection.get(limit=2, include=["embeddings"])
        if len(known["ids"]):
            collection.upsert(ids=known["ids"], embeddings=known["embeddings"])
            collection.query(query_embeddings=known["embeddings"][:1], n_results=1, include=[])

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """The approximate answer of `Index.search`."""
        found: Any = self._opened().query(query_embeddings=vector[None], n_results=k, include=["distances"])
        pairs = zip(found["ids"][0], found["distances"][0], strict=True)
        return [(int(row), round(1.0 - float(distance), DECIMALS)) for row, distance in pairs]

    def count(self) -> int:
        """How many vectors the collection holds."""
        return int(self._opened().count())

    def rows(self) -> set[int]:
        """Every row that the collection holds."""
        return {int(row) for row in self._opened().get(include=[])["ids"]}


def _batches(rows: Sequence[int]) -> list[Sequence[int]]:
    return [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]


Pairs = list[tuple[int, float]]
_SPARE = 32


class Recent:
    """The changes after generation `since` of one manifest, followed as they come."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._added = ExactIndex()
        self._added.generation = since
        self._removed: set[int] = set()

    @property
    def generation(self) -> int:
        """The manifest's generation up to which changes are known."""
        return self._added.generation

    @property
    def size(self) -> int:
        """How many rows came or went."""
        return self._added.count() + len(self._removed)

    def follow(self, manifest: Manifest, most: int) -> bool:
        """Takes over the latest changes; False where they are more than `most` or not known any more."""
        if self._added.generation != manifest.generation:
            if manifest.lag(self._added.generation) > most:
                return False
            changes = manifest.changes(self._added.generation)
            if changes.full:
                return False
            self._removed.update(changes.removed)
            self._added.apply(changes)
        return self.size <= most

    def merged(self, vector: NDArray[np.float32], k: int, ask: Callable[[int], Pairs | None]) -> Pairs | None:
        """The `k` nearest rows as of now, where `ask(k)` tells them as of `since`; None where it fails."""
        kept: Pairs = []
        # A graph is asked for a few more than wanted; for all that might be gone only where those few are.
        for spare in sorted({min(len(self._removed), _SPARE), len(self._removed)}):
            before = ask(k + spare)
            if before is None:
                return None
            kept = [(row, score) for row, score in before if row not in self._removed]
            if len(kept) >= k:
                break
        return sorted(kept + self._added.search(vector, k), key=lambda pair: (-pair[1], pair[0]))[:k]


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
