"""Deletion, ids, metadata, stores in memory, two stores in one process, and errors in plain words."""

from __future__ import annotations

import asyncio
import shutil
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from retrieval_fakes import WordEmbeddings, names, write

from chains.retrieval import DocumentStore, SearchOptions, errors
from chains.retrieval.manifest import Manifest

pytest_plugins = ["retrieval_fixtures"]


def sources(store: DocumentStore) -> list[str]:
    return names(tuple(record.path for record in store.sources()))


# Deletion


@pytest.mark.parametrize("word", ["filter", "where"])
def test_a_vector_store_deletes_by_id_by_filter_and_all(store: DocumentStore, docs: Path, word: str) -> None:
    vectors = store.vectorstore
    store.ingest(docs)
    vectors.add_texts(["One.", "Two.", "Three."], [{"n": 1}, {"n": 2}, {"n": 3}], ids=["a", "b", "c"])
    assert vectors.delete(["a", "unknown"])
    assert sorted(vectors.get_by_ids(["a", "b", "c"])[i].id or "" for i in range(2)) == ["b", "c"]
    assert vectors.delete(**{word: {"n": {"$gt": 2}}})
    assert [d.id for d in vectors.get_by_ids(["a", "b", "c"])] == ["b"]
    assert vectors.delete(**{word: {"source": str(docs / "deep")}}) and "lamp.md" not in sources(store)
    assert vectors.delete([]) and len(store.sources()) == 3
    with pytest.raises(TypeError, match="filtre"):
        vectors.delete(filtre={"n": 1})
    assert vectors.delete() and store.sources() == [] and store.empty and store.verify().ok


def test_a_chunk_that_was_found_is_deleted_by_its_id(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    [found] = store.retriever(k=1).invoke("tomatoes need sun")
    assert store.vectorstore.delete([found.id or ""])
    assert not any("Tomatoes" in d.page_content for d in store.retriever(k=9).invoke("tomatoes need sun"))
    assert store.verify().ok


# Ids


def test_documents_that_were_retrieved_can_be_added_again(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    found = store.retriever(k=2).invoke("ferries")
    before = store.stats()["chunks"]
    assert store.vectorstore.add_documents(found) == [d.id for d in found]
    assert store.stats()["chunks"] == before  # unchanged, so they are there
    changed = Document("Ferries leave at nine.", id=found[0].id, metadata={"corrected": True})
    assert store.vectorstore.add_documents([changed]) == [found[0].id]
    [stored] = store.vectorstore.get_by_ids([found[0].id or ""])
    assert (stored.id, stored.page_content) == (found[0].id, "Ferries leave at nine.")
    assert store.search("ferries leave at nine", SearchOptions(k=1))[0].text == "Ferries leave at nine."
    store.vectorstore.delete([found[0].id or ""])
    [stored] = store.vectorstore.get_by_ids([found[0].id or ""])
    assert stored.page_content == found[0].page_content  # the file's own chunk is there as before


def test_a_file_is_ingested_where_its_chunks_were_added_before(tmp_path: Path, docs: Path) -> None:
    with (
        DocumentStore(tmp_path / "a", WordEmbeddings(), index="exact") as one,
        DocumentStore(tmp_path / "b", WordEmbeddings(), index="exact") as two,
    ):
        one.ingest(docs)
        found = one.retriever(k=3).invoke("ferries")
        two.vectorstore.add_documents(found)
        assert len(two.ingest(docs).added) == 3 and two.verify().ok
        assert len(two.vectorstore.get_by_ids([d.id or "" for d in found])) == 3


def test_neighbours_of_a_source_that_is_removed_meanwhile(
    store: DocumentStore, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ingest(docs)
    original = Manifest.chunks_of

    def removed_first(self: Manifest, path: str, *bounds: int) -> Any:
        self.remove([path])
        return original(self, path, *bounds)

    monkeypatch.setattr(Manifest, "chunks_of", removed_first)
    hits = store.search("ferries", SearchOptions(k=2, neighbours=1))
    assert "Ferries" in hits[0].text


# Stores beside each other


def test_two_stores_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"Text number {n}." for n in range(8)})
    path = tmp_path / "s"
    with (
        DocumentStore(path, WordEmbeddings(), index="exact") as one,
        DocumentStore(path, WordEmbeddings(), index="exact") as two,
    ):
        failed: list[Exception] = []

        def ingest(store: DocumentStore, numbers: range) -> None:
            try:
                for number in numbers:
                    store.ingest(docs / f"{number}.txt")
            except Exception as error:
                failed.append(error)

        threads = [
            threading.Thread(target=ingest, args=(one, range(4))),
            threading.Thread(target=ingest, args=(two, range(4, 8))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed and len(one.sources()) == len(two.sources()) == 8


def test_a_store_in_memory_is_like_any_other() -> None:
    text = "# Ferries\n\n" + "\n\n".join(f"Ferry {n} leaves at {n} sharp." for n in range(40))
    with (
        DocumentStore.in_memory(WordEmbeddings()) as store,
        DocumentStore(":memory:", WordEmbeddings()) as two,
    ):
        assert store.add_document("plan.md", text, metadata={"year": 2026}) >= 1
        [hit] = store.search("ferry 7 leaves at 7", SearchOptions(k=1))
        assert text[hit.start : hit.end] == hit.text and "Ferry 7 " in hit.text
        assert store.search("ferry", SearchOptions(filter={"year": 2026}))
        store.vectorstore.add_texts(["A lamp."], ids=["lamp"])
        assert store.delete(["lamp"]) == ["lamp"] and store.verify().ok and store.stats()["documents"] == 1
        store.add_document("plan.md", "Changed.")
        assert store.text("plan.md") == "Changed." and two.empty
    assert not Path(":memory:").exists()


def test_of_a_long_text_the_likely_chunks_are_embedded() -> None:
    lines = [
        f"At {n} the pump of hall {n} ran as planned and nobody said a word about it." for n in range(900)
    ]
    lines[500] = "At 500 the gauge of the boiler burst and the hall was cleared."
    embeddings = WordEmbeddings()
    with DocumentStore.in_memory(embeddings) as store:
        store.add_document("log.txt", "\n\n".join(lines), likely_for="When did the gauge burst?", most=10)
        assert len(embeddings.embedded) <= 11
        assert "gauge of the boiler burst" in store.search("When did the gauge burst?")[0].text


# Metadata and filters


def test_metadata_of_an_ingest_is_stored_filtered_and_kept(store: DocumentStore, docs: Path) -> None:
    def of(path: str) -> dict[str, Any] | None:
        return {"due": date(2026, 1, len(Path(path).stem))} if path.endswith(".md") else None

    store.ingest(docs, metadata={"team": "harbour", "seen": datetime(2026, 1, 1, tzinfo=UTC)})
    assert all(record.metadata["team"] == "harbour" for record in store.sources())
    embedded = store._embedder.embeddings.embedded.copy()  # type: ignore[attr-defined]
    report = store.ingest(docs, metadata=of)
    assert len(report.updated) == 3 and report.embedded == 0
    assert store._embedder.embeddings.embedded == embedded  # type: ignore[attr-defined]
    assert {n: r.metadata for n, r in zip(sources(store), store.sources(), strict=True)} == {
        "garden.md": {"due": "2026-01-06"},
        "harbour.txt": {},
        "lamp.md": {"due": "2026-01-04"},
    }
    (docs / "garden.md").write_text("# Garden\n\nTomatoes need more sun.\n")
    assert len(store.ingest(docs).updated) == 1  # without metadata=, files keep what they were given
    hits = store.search("tomatoes lamp", SearchOptions(filter={"due": {"$gte": date(2026, 1, 5)}}))
    assert {Path(hit.chunk.source).name for hit in hits} == {"garden.md"}
    assert hits[0].chunk.metadata["due"] == "2026-01-06"
    with pytest.raises(TypeError, match="'bad'"):
        store.ingest(docs, metadata={"bad": object()})


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"$or": [{"n": 1}, {"n": 3}]}, "ac"),
        ({"$and": [{"n": {"$gt": 1}}, {"n": {"$lt": 3}}]}, "b"),
        ({"$or": [{"n": 1}, {"$and": [{"n": {"$in": [2, 3]}}, {"day": {"$lt": date(2026, 3, 1)}}]}]}, "ab"),
        ({"n": {"$nin": [1, 2]}}, "c"),
        ({"n": {"$ne": 1}}, "bc"),
        ({"$not": {"n": 1}}, "bc"),
        ({"$or": [{"chunk_id": "a"}, {"n": 2}]}, "ab"),
        ({"day": {"$gt": date(2026, 2, 2)}}, "c"),
        ({"at": {"$lte": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))}}, "a"),
        ({"$or": [{"type": "pdf"}, {"modified": {"$gt": date(2020, 1, 1)}}]}, ""),
    ],
)
def test_filters_that_are_joined_and_dates(chosen: dict[str, Any], found: str) -> None:
    metadatas = [
        {"n": n, "day": date(2026, n, n), "at": datetime(2026, 1, 1, 10 + n, tzinfo=UTC)} for n in (1, 2, 3)
    ]
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        store.vectorstore.add_texts(["Same.", "Same.", "Same."], metadatas, ids=["a", "b", "c"])
        hits = store.search("same", SearchOptions(filter=chosen, k=9))
        assert "".join(sorted(hit.chunk.chunk_id for hit in hits)) == found


@pytest.mark.parametrize(
    "chosen",
    [
        {"$or": []},
        {"$or": {"n": 1}},
        {"$nor": [{"n": 1}]},
        {"$or": [1]},
        {"n": {"$nin": 3}},
        ["n"],
        {"$not": 1},
    ],
)
def test_filters_that_are_not_valid_are_named(chosen: Any) -> None:
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        store.vectorstore.add_texts(["Same."])
        with pytest.raises(errors.BadFilter, match="expected"):
            store.search("same", SearchOptions(filter=chosen))


# Asynchronous ingest


def test_an_asynchronous_ingest_leaves_the_loop_free_and_can_be_cancelled(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": f"Text number {n}." for n in range(50)})
    reached, go_on = threading.Event(), threading.Event()

    class Slow(WordEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            reached.set()
            go_on.wait(10)
            return super().embed_documents(texts)

    async def run(store: DocumentStore) -> None:
        task = asyncio.create_task(store.aingest(docs))
        while not reached.is_set():  # the loop turns while the thread works
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        report = await store.aingest(docs, metadata={"kept": True})
        assert len(report.added) + len(report.updated) + len(report.unchanged) == 50
        assert all(record.metadata == {"kept": True} for record in store.sources())

    with DocumentStore(tmp_path / "s", Slow(), index="exact") as store:
        asyncio.run(run(store))


# Errors


def test_a_closed_store_says_so(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    store.close()
    for use in (lambda: store.search("x"), lambda: store.ingest(docs), store.sources, store.stats):
        with pytest.raises(errors.StoreClosed, match="open it again"):
            use()


def test_arguments_that_are_not_valid_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.StoreUnwritable, match="found a file"):
        DocumentStore(tmp_path / "file")
    with pytest.raises(TypeError, match="embeddings="):
        DocumentStore(tmp_path / "s", embeddings=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index="):
        DocumentStore(tmp_path / "s", index="faiss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chroma="):
        DocumentStore(tmp_path / "s", chroma="localhost:8000")
    assert not (tmp_path / "s").exists()
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        with pytest.raises(ValueError, match="half a surrogate pair"):
            store.vectorstore.add_texts(["a \ud83d b"])
        with pytest.raises(errors.QueryError, match="half a surrogate pair"):
            store.search("\ud83d")


def test_a_store_whose_folder_is_deleted_does_not_say_that_documents_are_stored(
    tmp_path: Path, docs: Path
) -> None:
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs / "garden.md")
        shutil.rmtree(tmp_path / "s")
        with pytest.raises(errors.StoreGone, match="ingest again"):
            store.ingest(docs)
        with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as fresh:
            with pytest.raises(errors.StoreGone, match="deleted or replaced"):
                store.ingest(docs)
            assert len(fresh.ingest(docs).added) == 3


def test_a_folder_that_is_deleted_during_an_ingest_is_noticed(tmp_path: Path, docs: Path) -> None:
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        with pytest.raises(errors.StoreGone):
            store.ingest(docs, progress=lambda step: shutil.rmtree(tmp_path / "s", ignore_errors=True))


# What a retriever of another kind says


def test_a_score_of_another_store_is_no_cosine_and_pages_count_from_one(tmp_path: Path) -> None:
    from chains.rag.evidence import to_passages

    foreign = Document("Tea is at four.", metadata={"source": "a.pdf", "score": 0.12, "page": 0})
    [passage] = to_passages([foreign])
    assert passage.cosine is None and passage.whole(1).page == 1
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        store.vectorstore.add_documents([foreign])
        [found] = store.retriever(k=1).invoke("tea")
        [passage] = to_passages([found])
        assert passage.cosine == pytest.approx(found.metadata["score"]) and passage.whole(1).page == 1
        [found] = store.vectorstore.similarity_search("tea", k=1)
        assert to_passages([found])[0].page == 1
