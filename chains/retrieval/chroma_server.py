"""A Chroma server over HTTP: reached at once or not at all, never through a proxy on this very machine.

Knows chromadb's HTTP calls and httpx. Refuses to know collections' contents. Chroma's own client sets itself
no limit of time, asks five questions before the first, and sends what is meant for the loopback interface to
the proxy that the environment names; its calls are made here over a session of ours.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chains.retrieval.errors import IndexUnavailable

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

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
