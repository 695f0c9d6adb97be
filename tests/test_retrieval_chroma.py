"""Chroma may lag behind the manifest. Chunks that were added since are found, and removed ones are not."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, SearchOptions
from chains.retrieval.chroma import ChromaIndex, NearestNeighbours, graph_is_sound
from chains.retrieval.manifest import FILE_NAME, MIGRATIONS, VERSION

DENSE = SearchOptions(k=3, mode="dense")


def numbered(folder: Path, numbers: range, word: str = "boats") -> Path:
    return write(folder, {f"d{n}.txt": f"Document {n} speaks of subject{n} and of {word}." for n in numbers})


def asked(store: DocumentStore, number: int, word: str = "boats") -> list[str]:
    query = f"Document {number} speaks of subject{number} and of {word}."
    return [os.path.basename(hit.chunk.source) for hit in store.search(query, DENSE)]


def test_a_lagging_index_answers_as_the_store_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = numbered(tmp_path / "docs", range(100))
    written: list[int] = []
    original = NearestNeighbours._write
    monkeypatch.setattr(
        NearestNeighbours, "_write", lambda self, since: written.append(since) or original(self, since)
    )
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        asked_chroma: list[int] = []
        ask = ChromaIndex.search
        monkeypatch.setattr(
            ChromaIndex, "search", lambda self, vector, k: asked_chroma.append(k) or ask(self, vector, k)
        )
        numbered(docs, range(100, 110))
        numbered(docs, range(3), "winter")
        (docs / "d50.txt").unlink()
        store.ingest(docs)
        assert written == [-1] and store.stats()["index"] == "clean"
        assert asked(store, 105)[0] == "d105.txt"
        assert asked(store, 1, "winter")[0] == "d1.txt"
        assert "d50.txt" not in asked(store, 50) and len(asked(store, 50)) == 3
        assert asked(store, 70)[0] == "d70.txt" and asked_chroma, "Chroma was not asked"
        with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as exact:
            for number in range(0, 110, 7):
                same = [
                    [(h.chunk.chunk_id, round(h.score, 4)) for h in s.search(f"subject{number}", DENSE)]
                    for s in (store, exact)
                ]
                assert same[0] == same[1]


def test_once_enough_has_changed_the_index_is_written_again(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(20))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        first = store._nearest._written()
        numbered(docs, range(20, 80))
        store.ingest(docs)
        assert store._nearest._written() == first  # 60 rows: still compared one by one
        numbered(docs, range(80, 90))
        store.ingest(docs)
        assert store._nearest._written() == store.generation and store.stats()["index"] == "clean"


def test_a_refused_index_is_rebuilt_by_the_next_ingest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = numbered(tmp_path / "docs", range(10))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
    (tmp_path / "s" / "chroma" / "chroma.sqlite3").write_bytes(b"no database" * 50)
    with caplog.at_level(logging.WARNING), DocumentStore(tmp_path / "s", WordEmbeddings()) as reader:
        assert asked(reader, 4)[0] == "d4.txt" and reader.stats()["index"] == "dirty"
    assert "is not used" in caplog.text
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        numbered(docs, range(10, 11))
        store.ingest(docs)
        assert store.stats()["index"] == "clean" and asked(store, 4)[0] == "d4.txt"


def test_bits_that_flip_without_a_trace_are_found_by_verify(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(30))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        # Bit rot does not change a file's times. A test cannot reset its ctime, so the new one is recorded.
        graph = next(p for p in (tmp_path / "s" / "chroma").rglob("data_level0.bin"))
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
        store._nearest._record(files=ChromaIndex.fingerprint(store._nearest._chroma))
        assert store.stats()["index"] == "clean"
        assert any("damaged" in problem for problem in store.verify().problems)
        assert store.verify(repair=True).ok and store.verify().problems == ()


def test_a_store_of_version_one_is_brought_up_to_date(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(3))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
    old = sqlite3.connect(tmp_path / "s" / FILE_NAME)
    old.execute("INSERT INTO vectors VALUES (x'00', x'00000000')")  # left over by a killed ingest
    old.execute("DROP TABLE loose")
    old.execute("PRAGMA user_version=1")
    old.commit()
    old.close()
    assert VERSION == len(MIGRATIONS) == 2
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        assert store._manifest.execute("SELECT count(*) FROM loose") == [(1,)]
        (docs / "d0.txt").unlink()
        store.ingest(docs)
        assert store._manifest.execute("SELECT count(*) FROM vectors") == [(2,)]
        assert store.stats()["index"] == "clean" and asked(store, 2)[0] == "d2.txt"


def test_what_an_ingest_reads_does_not_grow_with_the_store(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(300))
    one = tmp_path / "one.txt"
    steps: list[int] = []
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        for part in (range(20), range(300)):
            one.write_text(f"One text about {len(part)} otters.")
            store.ingest([one, *(docs / f"d{n}.txt" for n in part)])
            one.write_text(f"One more text about {len(part)} herons.")
            counted: list[int] = []
            store._manifest._connection.set_progress_handler(lambda c=counted: c.append(1), 1)
            store.ingest(one)
            store._manifest._connection.set_progress_handler(None, 1)
            steps.append(len(counted))
    assert steps[1] < 1.5 * steps[0], steps  # steps of SQLite's machine: 15 times the documents, equal work


def test_many_removed_neighbours_hide_none_that_are_left(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"same{n}.txt": f"Herons stand, {n} of them." for n in range(60)})
    numbered(docs, range(10))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        first = store._nearest._written()
        for number in range(58):
            (docs / f"same{number}.txt").unlink()
        store.ingest(docs)
        assert store._nearest._written() == first  # Chroma still holds all sixty
        found = store.search("Herons stand, 3 of them.", DENSE)
        assert [os.path.basename(hit.chunk.source) for hit in found[:2]] == ["same58.txt", "same59.txt"]
        assert len(found) == 3


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "link_lists.bin"])
def test_a_graph_that_was_not_written_to_its_end_is_told(tmp_path: Path, name: str) -> None:
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(numbered(tmp_path / "docs", range(100)))
    graph = next((tmp_path / "s" / "chroma").rglob(name))
    assert graph_is_sound(graph.parent)
    good = graph.read_bytes()
    graph.write_bytes(good[: 40 if name == "header.bin" else len(good) - 70])
    assert not graph_is_sound(graph.parent)
    if name != "header.bin":  # as long as it was, with what the memory held before
        graph.write_bytes(good[:500] + b"\xa5" * (len(good) - 500))
        assert not graph_is_sound(graph.parent)
