"""A store survives processes that die, disks that fill up and bits that flip."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, memory_folder, write

from chains.retrieval import DocumentStore, SearchOptions, errors
from chains.retrieval.database import FILE_NAME

DRIVER = Path(__file__).with_name("retrieval_crash_driver.py")
DOCS = {f"d{n}.txt": f"Document {n} speaks of subject{n} and of boats." for n in range(12)}


def killed(folder: Path, rounds: int, seed: int, timeout: float) -> dict[str, object]:
    command = [sys.executable, DRIVER, folder, str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_killed_at_random_moments(tmp_path: Path) -> None:
    found = killed(tmp_path / "crash", rounds=6, seed=7, timeout=150)
    assert found["rounds"] == 6 and found["steps"] != 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(1000, 6000, 1000))
def test_killed_500_times(seed: int) -> None:
    with memory_folder() as folder:
        found = killed(folder / "crash", rounds=100, seed=seed, timeout=1100)
    assert found["rounds"] == 100 and len(found["killed_during"]) >= 3  # type: ignore[arg-type]


def test_a_killed_ingest_embeds_at_most_one_batch_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chains.retrieval import ingest

    monkeypatch.setattr(ingest, "BATCH", 4)
    docs = write(tmp_path / "docs", {"one.txt": "\n\n".join(f"Word{n} " * 200 for n in range(20))})

    dying = [True]

    class Dying(WordEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if dying and len(self.embedded) >= 12:
                raise KeyboardInterrupt
            return super().embed_documents(texts)

    with DocumentStore(tmp_path / "s", Dying(), index="exact") as store:
        with pytest.raises(KeyboardInterrupt):
            store.ingest(docs)
        assert store.sources() == []  # a document is whole or not there
    dying.clear()
    with DocumentStore(tmp_path / "s", Dying(), index="exact") as store:
        report = store.ingest(docs)
        assert report.embedded == report.chunks - 12


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    docs = write(tmp_path / "docs", DOCS)
    with DocumentStore(tmp_path / "store", WordEmbeddings()) as store:
        store.ingest(docs)
    return tmp_path / "store"


def answers(path: Path) -> tuple[str, int]:
    """Return the state of the index and how many of the documents find themselves."""
    with DocumentStore(path, WordEmbeddings()) as store:
        found = 0
        for number in range(len(DOCS)):
            hits = store.search(f"subject{number}", SearchOptions(k=1, mode="hybrid"))
            found += bool(hits) and f"subject{number} " in hits[0].text
        return store.stats()["index"], found


def graph_files(path: Path) -> list[Path]:
    return [p for p in (path / "index").rglob("*.bin") if p.stat().st_size]


def flip(path: Path, seed: int = 1, count: int = 64) -> None:
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(count):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def lose_chroma(path: Path) -> None:
    subprocess.run(["rm", "-rf", path / "index"], check=True)


def cut_graphs(path: Path) -> None:
    for file in graph_files(path):
        os.truncate(file, file.stat().st_size // 2)


def flip_graphs(path: Path) -> None:
    for file in graph_files(path):
        flip(file)


def lose_chroma_database(path: Path) -> None:
    next((path / "index").rglob("chroma.sqlite3")).unlink()


def garble_chroma_database(path: Path) -> None:
    next((path / "index").rglob("chroma.sqlite3")).write_bytes(b"no database at all" * 100)


@pytest.mark.parametrize(
    "harm", [lose_chroma, cut_graphs, flip_graphs, lose_chroma_database, garble_chroma_database]
)
def test_a_harmed_index_is_not_believed_and_rebuilt(filled: Path, harm: Callable[[Path], None]) -> None:
    harm(filled)
    assert answers(filled)[1] == len(DOCS)  # the exact index answers
    with DocumentStore(filled, WordEmbeddings()) as store:
        report = store.verify(repair=True)
        assert report.recall == 1.0 and report.index == "clean" and report.lost == ()
    assert answers(filled) == ("clean", len(DOCS))


def test_an_index_that_is_not_recorded_is_never_opened(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chains.retrieval.chroma import SegmentFiles

    with DocumentStore(filled, WordEmbeddings()) as store:
        store._manifest.delete_meta("segment:folder")
    [left] = os.listdir(filled / "index")
    opened: list[str] = []
    original = SegmentFiles.open
    monkeypatch.setattr(
        SegmentFiles, "open", lambda self, segment: opened.append(segment.name) or original(self, segment)
    )
    assert answers(filled) == ("stale", len(DOCS)) and opened == []
    with DocumentStore(filled, WordEmbeddings()) as store:
        store.ingest(filled.parent / "docs")
    assert left not in opened and answers(filled) == ("clean", len(DOCS))


def test_a_lost_manifest_is_refused_with_what_to_do(filled: Path) -> None:
    (filled / FILE_NAME).unlink()
    with pytest.raises(errors.StoreDamaged, match="ingest again"):
        DocumentStore(filled, WordEmbeddings())


def test_a_manifest_that_is_none_is_refused_then_repaired_to_an_empty_store(filled: Path) -> None:
    (filled / FILE_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(errors.StoreDamaged, match="repair"):
        DocumentStore(filled, WordEmbeddings())
    report = DocumentStore.repair(filled, embeddings=WordEmbeddings())
    assert report.documents == 0
    with DocumentStore(filled, WordEmbeddings()) as store:
        assert len(store.ingest(filled.parent / "docs").added) == len(DOCS)
    assert (filled / "manifest.damaged").exists()


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_in_the_manifest_lose_no_more_than_they_hit(filled: Path, seed: int) -> None:
    flip(filled / FILE_NAME, seed, count=6)
    try:
        with DocumentStore(filled, WordEmbeddings()) as store:
            store.verify()
    except errors.StoreDamaged:
        pass  # a refusal is as good as a report
    DocumentStore.repair(filled, embeddings=WordEmbeddings())
    with DocumentStore(filled, WordEmbeddings()) as store:
        assert store.verify().ok
        store.ingest(filled.parent / "docs")
        assert store.verify().ok
    assert answers(filled) == ("clean", len(DOCS))


def test_a_cut_manifest_is_repaired_or_refused(filled: Path) -> None:
    size = (filled / FILE_NAME).stat().st_size
    os.truncate(filled / FILE_NAME, size // 2)
    DocumentStore.repair(filled, embeddings=WordEmbeddings())
    with DocumentStore(filled, WordEmbeddings()) as store:
        store.ingest(filled.parent / "docs")
        assert store.verify().ok and len(store.sources()) == len(DOCS)


def limited(path: Path, docs: Path, limit: int) -> str:
    """Ingest in a child whose files cannot exceed `limit` bytes; return the name of its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        name = "none"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with DocumentStore(path, WordEmbeddings(), index="exact") as store:
                store.ingest(docs)
        except errors.StoreError as error:
            name = type(error).__name__
        except BaseException:
            name = traceback.format_exc()
        os.write(writing, name.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


def test_a_full_disk_loses_nothing_and_the_next_ingest_goes_on(filled: Path) -> None:
    docs = filled.parent / "docs"
    write(docs, {f"new{n}.txt": f"New document {n}. " + f"filler{n} " * 400 for n in range(30)})
    size = (filled / FILE_NAME).stat().st_size
    met = [limited(filled, docs, size + extra) for extra in range(0, 400_000, 40_000)]
    assert set(met) <= {"StoreUnwritable", "none"} and "StoreUnwritable" in met, met
    with DocumentStore(filled, WordEmbeddings()) as store:
        assert store.verify().problems in ((), store.verify().problems[:1])  # at most: the index is stale
        kept = {os.path.basename(record.path) for record in store.sources()}
        assert set(DOCS) <= kept
        store.ingest(docs)
        assert len(store.sources()) == len(DOCS) + 30 and store.verify().ok
