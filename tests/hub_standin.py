"""A small Hugging Face Hub on 127.0.0.1: enough of it for the Hub's own client to pull from.

Repositories are folders. Settings make things go wrong: a gated repository, a wrong token, a slow connection,
a connection that breaks. Every request is recorded.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Repo:
    """A repository to serve.

    Attributes:
        folder: Its files.
        gated: Refuse files to requests without the token.
        token: The token that gives access.
        bytes_per_s: Rate at which files are sent; None for no limit.
        break_after: Bytes of a file after which the connection breaks, once; None for never.
        status: Answer every request with this HTTP status; None for the real answer.
        garble: Change the last byte of weight files.
    """

    folder: Path
    gated: bool = False
    token: str | None = None
    bytes_per_s: float | None = None
    break_after: int | None = None
    status: int | None = None
    garble: bool = False

    @property
    def commit(self) -> str:
        """Return forty hex digits that change with the files."""
        digest = hashlib.sha1()
        for path in sorted(self.folder.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


@dataclass
class Hub:
    """The running stand-in.

    Attributes:
        url: Value for HF_ENDPOINT.
        repos: Repositories by id.
        requests: Method, path and Range header of each request.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def sent(self, name: str) -> list[str | None]:
        """Return the Range header of every GET of a file of this name."""
        return [
            asked for method, path, asked in self.requests if method == "GET" and path.endswith(f"/{name}")
        ]


@contextmanager
def serving(**repos: Repo) -> Iterator[Hub]:
    """Serve repositories, `owner__name` standing for `owner/name`, until the block ends."""
    hub = Hub(repos={name.replace("__", "/"): repo for name, repo in repos.items()})
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _sibling(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path.name, "size": path.stat().st_size}
    if path.suffix in (".safetensors", ".bin"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found["lfs"] = {"size": found["size"], "sha256": digest, "pointerSize": 134}
    return found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Keep standard error clean."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4]) if parts[:2] == ["api", "models"] else "/".join(parts[:2])
        repo = self.hub.repos.get(name)
        if repo is None:
            # The Hub answers 401, so that nobody can tell private repositories from missing ones.
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif repo.status is not None:
            self._refuse(repo.status, "", "Out of order")
        elif parts[:2] == ["api", "models"]:
            self._describe(name, repo, parts[5] if len(parts) > 5 else "main")
        else:
            self._file(repo, parts[3], "/".join(parts[4:]), body=body)

    def _describe(self, name: str, repo: Repo, revision: str) -> None:
        if revision not in ("main", repo.commit):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        files = [_sibling(path) for path in sorted(repo.folder.iterdir())]
        answer: dict[str, Any] = {"id": name, "modelId": name, "sha": repo.commit, "siblings": files}
        answer |= {"gated": "manual" if repo.gated else False, "private": False, "tags": []}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: Repo, revision: str, file: str, *, body: bool) -> None:
        path = repo.folder / file
        if revision not in ("main", repo.commit):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        elif repo.gated and self.headers.get("Authorization") != f"Bearer {repo.token}":
            code = 403 if self.headers.get("Authorization") else 401
            self._refuse(code, "GatedRepo", "Access to this model is restricted. Accept its licence first.")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._send_file(repo, path, body=body)

    def _send_file(self, repo: Repo, path: Path, *, body: bool) -> None:
        data = path.read_bytes()
        first = 0
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.commit}
        headers["Accept-Ranges"] = "bytes"
        asked = self.headers.get("Range")
        if asked:
            first = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if repo.garble and path.suffix in (".safetensors", ".gguf"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        rest = data[first:]
        self.send_response(206 if asked else 200)
        for key, value in {**headers, "Content-Length": str(len(rest))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self._stream(repo, rest)

    def _stream(self, repo: Repo, data: bytes) -> None:
        piece = 16_384
        for start in range(0, len(data), piece):
            if repo.break_after is not None and start >= repo.break_after:
                repo.break_after = None
                self.close_connection = True
                self.connection.close()
                return
            try:
                self.wfile.write(data[start : start + piece])
                self.wfile.flush()
            except OSError:  # the client was killed
                return
            if repo.bytes_per_s:
                time.sleep(piece / repo.bytes_per_s)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
