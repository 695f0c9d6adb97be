"""LangChain's own suites over the store's vector store and retriever, and over Chroma at a server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, StoreRetriever, errors, nearest
from chains.retrieval.chroma_index import ChromaIndex, release
from chains.retrieval.vectorstore import StoreVectorStore


class TestVectorStoreOnChroma(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with DocumentStore(tmp_path / "store", embeddings=self.get_embeddings()) as store:
            yield store.vectorstore


class TestVectorStoreExact(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with DocumentStore(tmp_path / "store", embeddings=self.get_embeddings(), index="exact") as store:
            yield store.vectorstore


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def filled(self, tmp_path: Path) -> Iterator[None]:
        docs = write(tmp_path / "docs", {f"{n}.txt": f"Text number {n} about boats." for n in range(6)})
        self.store = DocumentStore(tmp_path / "store", embeddings=WordEmbeddings())
        self.store.ingest(docs)
        yield
        self.store.close()

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return StoreRetriever

    @property
    def retriever_constructor_params(self) -> dict:
        return {"store": self.store, "k": 3}

    @property
    def retriever_query_example(self) -> str:
        return "boats"


def test_texts_and_files_live_side_by_side(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand in the river."})
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings()) as store:
        store.vectorstore.add_documents([Document(id="x", page_content="Otters swim.", metadata={"page": 7})])
        store.ingest(docs)
        assert store.vectorstore.similarity_search("otters swim", k=1)[0].metadata == {"page": 7}
        assert store.retriever(k=1).invoke("herons")[0].metadata["title"] == "a"
        assert store.ingest(docs).deleted == ()  # a walk does not take texts for vanished files
        assert len(store.vectorstore.max_marginal_relevance_search("river", k=2)) == 2
        store.vectorstore.delete(["x"])
        assert [s.path for s in store.sources()] == [str(docs / "a.txt")]


def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings()) as store:
        with pytest.raises(TypeError):
            store.vectorstore.add_texts(["a", "b"], [{}, {"x": object()}])
        assert store.sources() == []


def test_from_texts_needs_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path"):
        StoreVectorStore.from_texts(["a"], WordEmbeddings())
    made = StoreVectorStore.from_texts(["one"], WordEmbeddings(), path=str(tmp_path / "s"), index="exact")
    assert made.similarity_search("one")[0].page_content == "one"


# Chroma's HTTP client opens connections that no call of its own closes.
leaky = pytest.mark.filterwarnings(
    "ignore:.*unclosed.*:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@contextlib.contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """A Chroma server on the loopback interface; gives its URL once it answers."""
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


@leaky
def test_two_stores_on_one_server_touch_only_their_own(server: str, tmp_path: Path) -> None:
    import chromadb

    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    foreign = chromadb.HttpClient(host="127.0.0.1", port=int(server.rsplit(":", 1)[1]))
    foreign.create_collection("somebody-elses")
    with (
        DocumentStore(tmp_path / "one", WordEmbeddings(), chroma=server) as one,
        DocumentStore(tmp_path / "two", WordEmbeddings(), chroma=server) as two,
    ):
        one.ingest(docs)
        two.ingest(docs / "a.txt")
        assert one.stats()["index"] == two.stats()["index"] == "clean"
        assert not (tmp_path / "one" / "chroma").exists()
        one.remove(docs / "b.txt")
        assert len(one.retriever().invoke("otters")) == len(two.retriever().invoke("otters")) == 1
        assert one.verify().ok and two.verify().recall == 1.0
    assert "somebody-elses" in {c.name for c in foreign.list_collections()}
    assert len(foreign.list_collections()) == 3
    release(foreign)


@leaky
def test_a_server_that_is_not_there_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand."})
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma="http://127.0.0.1:9") as store:
        with pytest.raises(errors.IndexUnavailable, match=re.escape("127.0.0.1:9")):
            store.ingest(docs)
        assert store.retriever(k=1).invoke("herons")  # the exact index answers


@leaky
def test_a_server_that_is_gone_is_told_and_what_it_held_is_not_thrown_away(tmp_path: Path) -> None:
    from chains.retrieval import errors

    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    gone = f"http://127.0.0.1:{free_port()}"
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=gone) as store:
        # As a writer left it before the server went away.
        store._nearest._record(dirty=0, generation=store.generation, count=2, seal="", files="")
        assert "Herons" in store.search("herons")[0].text
        assert any("unreachable" in problem for problem in store.verify().problems)
        assert store.stats()["index"] == "clean"  # nothing says that it must be written anew
        (docs / "c.txt").write_text("Ferries leave.")
        with pytest.raises(errors.IndexUnavailable, match="chroma run"):
            store.ingest(docs)
        assert len(store.sources()) == 2


@leaky
def test_a_reader_asks_a_server_again_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Herons stand.", "b.txt": "Otters swim."})
    asked: list[int] = []
    ask = ChromaIndex.search
    monkeypatch.setattr(
        ChromaIndex, "search", lambda self, vector, k: asked.append(k) or ask(self, vector, k)
    )
    monkeypatch.setattr(nearest, "_RETRY_S", 3600.0)
    port = free_port()
    with (
        served(tmp_path / "chroma", port) as url,
        DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as s,
    ):
        s.ingest(docs)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), chroma=url) as reader:
        assert "Herons" in reader.search("herons")[0].text and not asked
        with served(tmp_path / "chroma", port):
            assert "Herons" in reader.search("herons")[0].text and not asked  # not at every search
            monkeypatch.setattr(nearest, "_RETRY_S", 0.0)
            reader._nearest._retry_at = 0.0
            assert "Herons" in reader.search("herons")[0].text and asked
        asked.clear()
        for _ in range(3):  # and again it is away
            assert "Herons" in reader.search("herons")[0].text
        with served(tmp_path / "chroma", port):
            asked.clear()
            assert "Herons" in reader.search("herons")[0].text and asked
    told = [record for record in caplog.records if "cannot be opened" in record.message]
    assert len(told) == 2, "one warning each time it goes, not one a search"
