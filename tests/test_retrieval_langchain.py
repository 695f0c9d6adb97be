"""LangChain's own suites over the store's vector store and retriever, and over Chroma at a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, StoreRetriever
from chains.retrieval.langchain import StoreVectorStore


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
