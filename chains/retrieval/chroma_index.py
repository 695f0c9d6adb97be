"""Nearest neighbours from Chroma: a folder of its own, or one collection of a Chroma server.

Knows chromadb and rows. Refuses to be trusted: it holds nothing that the manifest does not, and its keeper
(nearest.py) opens it only when it was closed cleanly. On a server, only the collection that carries the
store's id is ever written or deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chains.retrieval.chroma_server import ChromaServer
from chains.retrieval.errors import IndexUnavailable
from chains.retrieval.graph_files import whole
from chains.retrieval.index import DECIMALS
from chains.retrieval.records import Changes

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

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
