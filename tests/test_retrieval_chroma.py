"""Chroma holds immutable segments. Chunks that were added since are found, and removed ones are not."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from retrieval_fakes import DIMENSION, WordEmbeddings, write

from chains.retrieval import DocumentStore, SearchOptions, chroma
from chains.retrieval.chroma import SegmentFiles
from chains.retrieval.database import FILE_NAME, MIGRATIONS, VERSION

DENSE = SearchOptions(k=3, mode="dense")


def numbered(folder: Path, numbers: range, word: str = "boats") -> Path:
    return write(folder, {f"d{n}.txt": f"Document {n} speaks of subject{n} and of {word}." for n in numbers})


def asked(store: DocumentStore, number: int, word: str = "boats") -> list[str]:
    query = f"Document {number} speaks of subject{number} and of {word}."
    return [os.path.basename(hit.chunk.source) for hit in store.search(query, DENSE)]


def segments(path: Path) -> list[str]:
    return sorted(os.listdir(path / "index"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the next segment after 64 changes instead of 1,000."""
    monkeypatch.setattr(chroma, "_DELTA_LEAST", 64)


def test_a_lagging_index_answers_as_the_store_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = numbered(tmp_path / "docs", range(100))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        [first] = segments(tmp_path / "s")
        files = {p: p.read_bytes() for p in (tmp_path / "s" / "index").rglob("*.bin")}
        asked_chroma: list[int] = []
        ask = SegmentFiles.search
        monkeypatch.setattr(
            SegmentFiles, "search", lambda self, name, v, k: asked_chroma.append(k) or ask(self, name, v, k)
        )
        numbered(docs, range(100, 110))
        numbered(docs, range(3), "winter")
        (docs / "d50.txt").unlink()
        store.ingest(docs)
        assert segments(tmp_path / "s") == [first] and store.stats()["index"] == "clean"
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
    assert {p: p.read_bytes() for p in files} == files, "a segment was changed"


@pytest.mark.usefixtures("small")
def test_once_enough_has_changed_the_index_is_written_again(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(20))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        first = segments(tmp_path / "s")
        numbered(docs, range(20, 80))
        store.ingest(docs)
        assert segments(tmp_path / "s") == first  # 60 rows: still compared one by one
        with DocumentStore(tmp_path / "s", WordEmbeddings()) as reader:
            assert asked(reader, 4)[0] == "d4.txt"
            numbered(docs, range(80, 90))
            store.ingest(docs)
            [second] = segments(tmp_path / "s")
            assert second != first[0] and second.startswith(f"{store.generation:08d}-")
            assert store.stats()["index"] == "clean"
            # A reader that has the old segment open goes on without a gap.
            assert asked(reader, 4)[0] == "d4.txt" and asked(reader, 85)[0] == "d85.txt"
            assert reader._nearest._opened == store._nearest._opened


def test_a_refused_index_is_rebuilt_by_the_next_ingest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = numbered(tmp_path / "docs", range(10))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
    next((tmp_path / "s" / "index").rglob("chroma.sqlite3")).write_bytes(b"no database" * 50)
    with caplog.at_level(logging.WARNING), DocumentStore(tmp_path / "s", WordEmbeddings()) as reader:
        assert asked(reader, 4)[0] == "d4.txt" and asked(reader, 5)[0] == "d5.txt"
        assert reader.stats()["index"] == "stale"
    assert len([record for record in caplog.records if "is not used" in record.message]) == 1
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        numbered(docs, range(10, 11))
        store.ingest(docs)
        assert store.stats()["index"] == "clean" and asked(store, 4)[0] == "d4.txt"


def test_bits_that_flip_without_a_trace_are_found_by_verify(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(30))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
    graph = next(p for p in (tmp_path / "s" / "index").rglob("data_level0.bin"))
    data = bytearray(graph.read_bytes())
    # A bit in the middle of the third vector: enough to change it, too little for the self-queries.
    data[len(data) // 30 * 3 - DIMENSION * 2 + 2] ^= 0x40
    graph.write_bytes(data)
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        assert store.stats()["index"] == "clean"
        assert any("damaged" in problem for problem in store.verify().problems)
        assert store.verify(repair=True).ok and store.verify().problems == ()


def test_a_child_that_dies_costs_one_exact_answer_and_no_other_store(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(30))
    with (
        DocumentStore(tmp_path / "a", WordEmbeddings()) as one,
        DocumentStore(tmp_path / "b", WordEmbeddings()) as two,
    ):
        one.ingest(docs)
        two.ingest(docs)
        assert asked(one, 7)[0] == asked(two, 7)[0] == "d7.txt"
        os.kill(chroma._process.child, signal.SIGKILL)
        assert asked(one, 8)[0] == asked(two, 8)[0] == "d8.txt"
        assert asked(one, 9)[0] == asked(two, 9)[0] == "d9.txt"
        assert one._nearest._opened and two._nearest._opened
        assert one.stats()["index"] == two.stats()["index"] == "clean"
        one.close()
        assert asked(two, 4)[0] == "d4.txt" and two._nearest._opened


def test_a_forked_process_has_a_child_of_its_own(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(10))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        assert asked(store, 7)[0] == "d7.txt"
        forked = os.fork()
        if forked == 0:
            good = asked(store, 5)[0] == "d5.txt" and store._nearest._opened is not None
            os._exit(0 if good else 1)
        assert os.waitpid(forked, 0)[1] == 0
        assert asked(store, 6)[0] == "d6.txt" and store._nearest._opened is not None


def test_the_child_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(3))
    code = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[3])\n"
        "from retrieval_fakes import WordEmbeddings\n"
        "from chains.retrieval import DocumentStore, chroma\n"
        "DocumentStore(sys.argv[1], WordEmbeddings()).ingest(sys.argv[2])\n"
        "print(chroma._process.child, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, tmp_path / "s", docs, Path(__file__).parent]
    done = subprocess.run(command, capture_output=True, text=True)
    child = int(done.stdout)
    for _ in range(100):
        try:
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                break
        except OSError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child outlived its parent")


def test_what_a_killed_writer_and_older_versions_left_is_deleted(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(3))
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    write(tmp_path / "s", {"index/building-1/x": "half", "index/00000001-aa/x": "lost", "chroma/old": "old"})
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
        assert len(segments(tmp_path / "s")) == 1 and not (tmp_path / "s" / "chroma").exists()
        assert asked(store, 2)[0] == "d2.txt" and store._nearest._opened is not None


def test_a_store_of_version_one_is_brought_up_to_date(tmp_path: Path) -> None:
    docs = numbered(tmp_path / "docs", range(3))
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs)
    old = sqlite3.connect(tmp_path / "s" / FILE_NAME)
    old.execute("INSERT INTO vectors VALUES (x'00', x'00000000')")  # left over by a killed ingest
    old.execute("DROP TABLE loose")
    for table, column in (
        ("sources", "partly"),
        ("sources", "given"),
        ("chunks", "place"),
        ("chunks", "boxes"),
    ):
        old.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    old.execute("PRAGMA user_version=1")
    old.commit()
    old.close()
    assert VERSION == len(MIGRATIONS) == 4
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
        first = segments(tmp_path / "s")
        for number in range(58):
            (docs / f"same{number}.txt").unlink()
        store.ingest(docs)
        assert segments(tmp_path / "s") == first  # Chroma still holds all sixty
        found = store.search("Herons stand, 3 of them.", DENSE)
        assert [os.path.basename(hit.chunk.source) for hit in found[:2]] == ["same58.txt", "same59.txt"]
        assert len(found) == 3 and store._nearest._opened is not None
