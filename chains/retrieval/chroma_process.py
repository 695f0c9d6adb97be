"""Runs Chroma in a process of its own, which may die without harm to the process that asks it.

Chroma's native code ends the process if it meets a damaged graph or a full disk, so no process of a user ever
loads it: `chains.retrieval.chroma` starts this file as a child and sends it requests over a socket. A request
is a JSON object, followed by the float32 vectors that it announces; the answer is a JSON object. The child
ends when the socket closes or its parent is gone. It imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# These are the parameters of hnswlib's authors for a recall above 0.95 (Malkov and Yashunin 2016).
# `ef_search` is at least as large as the longest list that hybrid search asks for. The thresholds of 2 write
# every batch through to the graph's files and let Chroma drop its own log of it: 20,000 vectors of 384
# dimensions take 46 MB on the disk, and 75 MB with the log. A reader then finds nothing left to apply.
HNSW = {
    "space": "ip",
    "ef_construction": 128,
    "ef_search": 160,
    "max_neighbors": 16,
    "sync_threshold": 2,
    "batch_size": 2,
}
# A host that drops packets (or a proxy in front of one) must not delay a search for longer.
_CONNECT_S = 3.0
# A server writes five thousand vectors in a few seconds.
_ANSWER_S = 120.0
_DECIMALS = 6
_PAGE = 500
# How often the child looks for its parent, in seconds. A fork of the parent may hold the socket open.
_PARENT_S = 5.0
_TOLERANCE = 1e-5


class ChromaServer:
    """The calls that an index needs from a Chroma server, with time limits.

    Chroma's own client has no time limits, sends five requests before the first useful one, and sends
    requests for the loopback interface to the proxy that the environment names. Its calls are made here over
    an httpx session of our own, which uses a proxy as httpx does, but never for the loopback interface.

    Args:
        url: `http://host:port` or `https://host:port`.

    Raises:
        ConnectionError: The server cannot be reached.
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
        """Check that the server answers; raise ConnectionError within seconds if it does not."""
        with self._as_unreachable():
            self._session.timeout = _CONNECT_S
            self._api.heartbeat()
            self._session.timeout = self._limits

    def create_collection(self, name: str, configuration: Any = None) -> Any:
        """Return a new collection of this name."""
        with self._as_unreachable():
            return self._collection(self._api.create_collection(name, configuration=configuration))

    def get_collection(self, name: str) -> Any:
        """Return the collection of this name; raise ValueError or Chroma's NotFoundError without one."""
        with self._as_unreachable():
            return self._collection(self._api.get_collection(name))

    def _collection(self, model: Any) -> Any:
        from chromadb.api.models.Collection import Collection

        return Collection(client=self._api, model=model, embedding_function=None)

    def names(self) -> list[str]:
        """Return the names of all collections, those of other stores and programs included."""
        found: list[str] = []
        with self._as_unreachable():
            while page := self._api.list_collections(limit=_PAGE, offset=len(found)):
                found += [collection.name for collection in page]
        return found

    def delete_collection(self, name: str) -> None:
        """Delete the collection of this name."""
        self._api.delete_collection(name)

    def close(self) -> None:
        """Close every connection."""
        self._system.stop()
        self._session.close()

    @contextlib.contextmanager
    def _as_unreachable(self) -> Iterator[None]:
        from chromadb.errors import NotFoundError

        try:
            yield
        except (NotFoundError, ValueError):
            raise
        except Exception as error:
            raise ConnectionError(f"{type(error).__name__} {str(error)[:200]!r}") from error


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


def is_server(place: str) -> bool:
    """Return whether `place` is the URL of a server and not a folder."""
    return place.startswith(("http://", "https://"))


class Requests:
    """Carries out requests. Each names a `place` (a folder, or a server's URL) and mostly a collection."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._collections: dict[tuple[str, str], Any] = {}

    def _client(self, place: str) -> Any:
        if place not in self._clients:
            self._clients[place] = ChromaServer(place) if is_server(place) else self._folder(place)
        return self._clients[place]

    @staticmethod
    def _folder(place: str) -> Any:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        try:
            return chromadb.PersistentClient(place, settings=settings)
        except BaseException:
            # A client that failed to start stays in Chroma's cache for this process. Creating it again and
            # closing it removes it from there.
            with contextlib.suppress(BaseException):
                broken: Any = chromadb.PersistentClient(place, settings=settings)
                broken.close()
            raise

    def reach(self, place: str) -> dict[str, Any]:
        """Check that a server answers."""
        self._client(place).reach()
        return {}

    def open(self, place: str, name: str) -> dict[str, Any]:
        """Open a collection and return its count."""
        options: dict[str, Any] = {} if is_server(place) else {"embedding_function": None}
        collection = self._client(place).get_collection(name, **options)
        self._collections[place, name] = collection
        return {"count": int(collection.count())}

    def search(self, place: str, name: str, k: int, vectors: NDArray[np.float32]) -> dict[str, Any]:
        """Return the rows and cosines of the `k` vectors nearest to each of `vectors`."""
        query = self._collections[place, name].query
        found = query(query_embeddings=vectors, n_results=k, include=["distances"])
        rows = [[int(row) for row in ids] for ids in found["ids"]]
        scores = [[round(1.0 - float(one), _DECIMALS) for one in row] for row in found["distances"]]
        return {"rows": rows, "scores": scores}

    def create(self, place: str, name: str) -> dict[str, Any]:
        """Make a new, empty collection."""
        options: dict[str, Any] = {} if is_server(place) else {"embedding_function": None}
        client = self._client(place)
        self._collections[place, name] = client.create_collection(
            name, configuration={"hnsw": HNSW}, **options
        )
        return {}

    def add(self, place: str, name: str, rows: list[int], vectors: NDArray[np.float32]) -> dict[str, Any]:
        """Add vectors to a collection."""
        self._collections[place, name].add(ids=[str(row) for row in rows], embeddings=vectors)
        return {}

    def finish(self, place: str, name: str) -> dict[str, Any]:
        """Write a new collection through to its files and close it; return its count."""
        collection = self._collections[place, name]
        # Two writes pass the threshold even if the last batch was a single vector, and a query applies them.
        known = collection.get(limit=2, include=["embeddings"])
        if len(known["ids"]):
            collection.upsert(ids=known["ids"], embeddings=known["embeddings"])
            collection.query(query_embeddings=known["embeddings"][:1], n_results=1, include=[])
        count = int(collection.count())
        if not is_server(place):
            self.close(place)
        return {"count": count}

    def compare(self, place: str, name: str, rows: list[int], vectors: NDArray[np.float32]) -> dict[str, Any]:
        """Return how many of `rows` the collection does not hold with these vectors."""
        found = self._collections[place, name].get(ids=[str(row) for row in rows], include=["embeddings"])
        held = dict(zip(found["ids"], np.asarray(found["embeddings"], np.float32), strict=True))
        wrong = sum(
            str(row) not in held or not np.allclose(held[str(row)], vector, rtol=0, atol=_TOLERANCE)
            for row, vector in zip(rows, vectors, strict=True)
        )
        return {"wrong": wrong}

    def drop(self, place: str, prefix: str, keep: str) -> dict[str, Any]:
        """Delete the server's collections that are named `prefix` or start with it and "-", except `keep`."""
        client = self._client(place)
        for name in client.names():
            if name != keep and (name == prefix or name.startswith(f"{prefix}-")):
                self._collections.pop((place, name), None)
                client.delete_collection(name)
        return {}

    def close(self, place: str) -> dict[str, Any]:
        """Close a folder's files, or the connections to a server."""
        for key in [key for key in self._collections if key[0] == place]:
            del self._collections[key]
        client = self._clients.pop(place, None)
        if client is not None:
            client.close()
        return {}


def serve(connection: Connection) -> None:
    """Answer requests until the other side hangs up or the parent process is gone."""
    parent = os.getppid()
    requests = Requests()
    while True:
        while not connection.poll(_PARENT_S):
            if os.getppid() != parent:
                return
        try:
            request = json.loads(connection.recv_bytes())
            if size := request.pop("dimension", 0):
                flat = np.frombuffer(connection.recv_bytes(), np.float32)
                request["vectors"] = flat.reshape(-1, size)
        except EOFError:
            return
        action: Callable[..., dict[str, Any]] = getattr(requests, request.pop("do"))
        try:
            answer = action(**request)
        except ConnectionError as error:
            answer = {"unreachable": str(error)}
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # Chroma's Rust code raises panics, which are no Exception
            answer = {"failed": f"{type(error).__name__} {str(error)[:200]!r}"}
        connection.send_bytes(json.dumps(answer).encode())


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    connection = Connection(int(sys.argv[1]))
    # The import takes most of the start. It runs while the parent still loads its own libraries.
    with contextlib.suppress(ImportError):
        import chromadb

        del chromadb
    with contextlib.suppress(BrokenPipeError):
        serve(connection)


if __name__ == "__main__":
    main()
