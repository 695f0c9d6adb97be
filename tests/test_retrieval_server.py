"""The index on a Chroma server: two stores on one server, a server that stops and comes back, proxies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, chroma, errors
from chains.retrieval.chroma import IndexSegment, SegmentFiles
from chains.retrieval.chroma_process import ChromaServer, is_loopback


@contextlib.contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """Start a Chroma server on the loopback interface; yield its URL when it answers."""
    command = [Path(sys.executable).with_name("chroma"), "run", "--path", folder, "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    settings = os.environ | {"ANONYMIZED_TELEMETRY": "False"}
    child = subprocess.Popen(command, start_new_session=True, env=settings, **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/api/v2/heartbeat", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("chroma-server"), free_port()) as url:
        yield url


def test_two_stores_on_one_server_touch_only_their_own(server: str, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    foreign = ChromaServer(server)
    foreign.create_collection("somebody-elses")
    with (
        DocumentStore(tmp_path / "one", WordEmbeddings(), chroma=server) as one,
        DocumentStore(tmp_path / "two", WordEmbeddings(), chroma=server) as two,
    ):
        one.ingest(docs)
        two.ingest(docs / "a.txt")
        assert one.stats()["index"] == two.stats()["index"] == "clean"
        assert not (tmp_path / "one" / "index").exists()
        one.remove(docs / "b.txt")
        assert len(one.retriever().invoke("otters")) == len(two.retriever().invoke("otters")) == 1
        assert one.verify().ok and two.verify().recall == 1.0
    names = foreign.names()
    assert "somebody-elses" in names and len(names) == 3
    foreign.close()


def test_a_server_that_is_not_there_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand."})
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma="http://127.0.0.1:9") as store:
        with pytest.raises(errors.IndexUnavailable, match=re.escape("127.0.0.1:9")):
            store.ingest(docs)
        assert store.retriever(k=1).invoke("herons")  # the exact index answers


def test_a_server_that_is_gone_is_told_and_what_it_held_is_not_thrown_away(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    gone = f"http://127.0.0.1:{free_port()}"
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=gone) as store:
        # The state that a writer left before the server stopped.
        recorded = asdict(IndexSegment("00000002-ab", store.generation, 2))
        store._manifest.set_meta(**{f"segment:{gone}": json.dumps(recorded)})
        assert "Herons" in store.search("herons")[0].text
        assert any("unreachable" in problem for problem in store.verify().problems)
        assert store.stats()["index"] == "clean"  # nothing says that it must be written anew
        (docs / "c.txt").write_text("Ferries leave.")
        with pytest.raises(errors.IndexUnavailable, match="chroma run"):
            store.ingest(docs)
        assert len(store.sources()) == 2


def test_a_reader_asks_a_server_again_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    asked: list[int] = []
    ask = SegmentFiles.search
    monkeypatch.setattr(SegmentFiles, "search", lambda *given: asked.append(1) or ask(*given))
    port = free_port()
    with (
        served(tmp_path / "chroma", port) as url,
        DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as s,
    ):
        s.ingest(docs)
    asked.clear()
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as reader:
        for _ in range(3):
            assert "Herons" in reader.search("herons")[0].text and not asked
        with (
            served(tmp_path / "chroma", port),
            DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as writer,
        ):
            assert "Herons" in reader.search("herons")[0].text and not asked  # not at every search
            # Whoever writes to the store has reached the server.
            writer.ingest(write(tmp_path / "docs", {"c.txt": "Lamps burn."}))
            asked.clear()
            assert "Herons" in reader.search("herons")[0].text and asked
        for _ in range(3):  # and again it is away
            assert "Herons" in reader.search("herons")[0].text
    told = [record for record in caplog.records if "is not used" in record.message]
    assert len(told) == 2, "one warning each time it goes, not one a search"


def test_a_server_without_this_stores_index_is_told_in_one_line(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand."})
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    for url, words in ((server, "does not hold"), ("http://127.0.0.1:9", "is not used")):
        caplog.clear()
        with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as reader:
            for _ in range(3):
                assert reader.search("herons")
        [told] = caplog.records
        assert words in told.message and url in told.message and "the exact index answers" in told.message


@contextlib.contextmanager
def proxy(port: int) -> Iterator[tuple[str, list[str]]]:
    """Start a proxy that forwards every request to `port`; yield its URL and the URLs it was asked for."""
    asked: list[str] = []

    class Forward(BaseHTTPRequestHandler):
        def forward(self) -> None:
            asked.append(self.path)
            where = f"http://127.0.0.1:{port}/" + self.path.partition("://")[2].partition("/")[2]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            request = urllib.request.Request(where, body or None, kind, method=self.command)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                text = answer.read()
                self.send_response(answer.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = forward

        def log_message(self, *anything: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as here:
        thread = threading.Thread(target=here.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{here.server_port}", asked
        finally:
            here.shutdown()
            thread.join()


def test_a_server_behind_a_proxy_is_reached_and_this_machine_never_through_one(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with proxy(int(server.rsplit(":", 1)[1])) as (url, asked):
        monkeypatch.setenv("http_proxy", url)
        chroma._process.stop()  # the next child sees the proxy
        far = "http://chroma.invalid:8000"
        with DocumentStore(tmp_path / "far", WordEmbeddings(), chroma=far) as store:
            store.ingest(docs)
            assert store.stats()["index"] == "clean" and "Herons" in store.search("herons")[0].text
        assert asked and all(path.startswith(f"{far}/api/") for path in asked)
        asked.clear()
        for near in (server, server.replace("127.0.0.1", "localhost")):
            ChromaServer(near).close()
        assert not asked
    with pytest.raises(ConnectionError):  # and the proxy is gone
        ChromaServer(far)
    chroma._process.stop()


def test_a_host_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match="ReadTimeout"):
            ChromaServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begun < 10


def test_what_is_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST.", "a.localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "localhost.example", "notlocalhost", "8.8.8.8", "::2")))
