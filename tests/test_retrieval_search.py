"""Search as users see it: hits with their positions, filters, neighbours and unusual queries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from retrieval_fakes import DOCS, WordEmbeddings, write

from chains.retrieval import DocumentStore, Fusion, SearchOptions, errors

pytest_plugins = ["retrieval_fixtures"]


def test_search_says_where_a_passage_stands(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    found = store.retriever(k=1).invoke("When do roses like clay?")[0]
    meta = found.metadata
    assert meta["source"] == str(docs / "garden.md") and meta["title"] == "Garden"
    assert store.text(meta["source"], meta["start"], meta["end"]) == found.page_content
    assert meta["line"] == 1 + DOCS["garden.md"][: meta["start"]].count("\n")
    assert 0 < meta["score"] <= 1 and meta["page"] is None


def test_queries_that_cannot_be_asked(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    for question in ("", "  \n"):
        with pytest.raises(errors.EmptyQuery):
            store.retriever().invoke(question)
    with pytest.raises(errors.BadFilter):
        store.retriever(filter={"modified": "yesterday"}).invoke("roses")
    with pytest.raises(errors.BadFilter):
        store.retriever(filter={"title": {"$near": 1}}).invoke("roses")
    with pytest.raises(errors.BadFilter):
        store.retriever(k=0)
    with pytest.raises(errors.BadFilter):
        store.retriever(mode="psychic")  # type: ignore[arg-type]


@pytest.mark.parametrize("question", ["?!", "灯台", '"quoted" AND (NEAR', "*", "a the of", "x" * 5000])
@pytest.mark.parametrize("mode", ["hybrid", "keyword", "dense", "mmr"])
def test_odd_questions_are_harmless(store: DocumentStore, docs: Path, question: str, mode: str) -> None:
    store.ingest(docs)
    assert len(store.retriever(mode=mode).invoke(question)) <= 4  # type: ignore[arg-type]


def test_chinese_words_are_found(store: DocumentStore, tmp_path: Path) -> None:
    docs = write(tmp_path / "d", {"a.txt": "灯塔在黄昏时点亮。", "b.txt": "港口六点开放。"})
    store.ingest(docs)
    assert store.retriever(k=1, mode="keyword").invoke("灯塔")[0].metadata["title"] == "a"


def test_filters(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)

    def found(**chosen: object) -> set[str]:
        hits = store.retriever(k=20, filter=chosen).invoke("the lamp tomatoes harbour roses")
        return {os.path.basename(d.metadata["source"]) for d in hits}

    assert found(source="garden.md") == {"garden.md"}
    assert found(source=str(docs / "deep")) == {"lamp.md"}
    assert found(source="*.txt") == {"harbour.txt"}
    assert found(type=["markdown"]) == {"garden.md", "lamp.md"}
    assert found(heading="roses") <= {"garden.md"}
    assert found(modified={"$gte": "2001-01-01"}) == {"garden.md", "lamp.md", "harbour.txt"}
    assert found(modified={"$lt": "2001-01-01"}) == set()
    assert found(nosuch=1) == set()


def test_neighbours_are_joined(store: DocumentStore, tmp_path: Path) -> None:
    text = "\n\n".join(
        f"Paragraph {n} speaks of subject{n} at some length, and says little else. " * 6 for n in range(20)
    )
    path = tmp_path / "long.txt"
    path.write_text(text)
    store.ingest(path)
    alone = store.retriever(k=1).invoke("subject7")[0]
    joined = store.retriever(k=1, neighbours=1).invoke("subject7")[0]
    assert alone.page_content in joined.page_content and len(joined.page_content) > len(alone.page_content)
    assert store.text(str(path), joined.metadata["start"], joined.metadata["end"]) == joined.page_content


def test_threshold_and_reranker(store: DocumentStore, docs: Path) -> None:
    class Shortest:
        def scores(self, query: str, texts: list[str]) -> list[float]:
            return [-len(text) for text in texts]

    store.ingest(docs)
    assert store.retriever(min_score=0.999).invoke("roses") == []
    best = store.retriever(k=1, reranker=Shortest()).invoke("roses")[0]
    assert len(best.page_content) == min(len(d.page_content) for d in store.retriever(k=20).invoke("roses"))


@pytest.mark.parametrize("method", ["convex", "rrf"])
def test_both_fusions_find_what_both_halves_find(tmp_path: Path, docs: Path, method: str) -> None:
    fusion = Fusion(method=method)  # type: ignore[arg-type]
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact", fusion=fusion) as store:
        store.ingest(docs)
        assert "Ferries" in store.retriever(k=1).invoke("ferries harbour")[0].page_content


def test_the_default_embedder_finds_meaning(tmp_path: Path, docs: Path) -> None:
    with DocumentStore(tmp_path / "s") as store:
        store.ingest(docs)
        assert (
            "Ferries" in store.retriever(k=1).invoke("At what time can ships enter the port?")[0].page_content
        )
        assert store.best_score("ferry departures") > store.best_score("quantum chromodynamics")
        long = "ships and ferries " * 400
        assert store.search(long, SearchOptions(k=1))[0].cosine > 0.2
