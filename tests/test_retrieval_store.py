"""The store as a whole: opening, recorded settings, one writer, readers, statistics."""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from retrieval_fakes import DOCS, WordEmbeddings, names

import chains.retrieval
from chains.retrieval import DocumentStore, SplitterConfig, errors
from chains.retrieval.database import FILE_NAME, VERSION

pytest_plugins = ["retrieval_fixtures"]


def test_exports_are_sorted_and_there() -> None:
    assert chains.retrieval.__all__ == sorted(chains.retrieval.__all__)
    for name in chains.retrieval.__all__:
        assert getattr(chains.retrieval, name) is not None


def test_opening_and_listing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from chains.retrieval import DocumentStore; s = DocumentStore(sys.argv[1])\n"
        "s.sources(); s.retriever(); bad = {'torch', 'transformers', 'chromadb'} & set(sys.modules)\n"
        "print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "s"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ingest_then_nothing_to_do(store: DocumentStore, docs: Path) -> None:
    first = store.ingest(docs)
    assert names(first.added) == ["lamp.md", "garden.md", "harbour.txt"]
    again = store.ingest([docs])
    assert len(again.unchanged) == 3 and again.embedded == 0 and not again.changed


def test_remove_a_file_and_a_folder(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    assert store.remove(docs / "garden.md") == [str(docs / "garden.md")]
    assert store.remove(docs / "none.md") == []
    assert len(store.remove(docs)) == 2 and store.sources() == []
    assert store.retriever().invoke("harbour") == []


def test_another_embedder_is_refused_until_reembedded(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings(seed=0)) as store:
        store.ingest(docs)
    with DocumentStore(path, WordEmbeddings(seed=1)) as other:
        with pytest.raises(errors.EmbedderMismatch, match="reembed"):
            other.ingest(docs)
        with pytest.raises(errors.EmbedderMismatch):
            other.retriever().invoke("roses")
        report = other.ingest(docs, reembed=True)
        assert len(report.unchanged) == 3 and other.best_score("roses like clay soil") > 0.5
    with DocumentStore(path, WordEmbeddings(seed=1)) as again:
        assert again.ingest(docs).embedded == 0
        assert again.verify().ok


def test_another_precision_is_refused_until_reembedded(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, index="exact", precision="bfloat16") as store:
        store.ingest(docs)
        half = store._manifest.changes(-1).vectors
    with DocumentStore(path, index="exact") as plain:  # goes on with what the store was made with
        assert plain.stats()["precision"] == "bfloat16"
        assert "Ferries" in plain.retriever(k=1).invoke("ferries")[0].page_content
        (docs / "harbour.txt").write_text("The harbour is closed. Ferries rest.\n")
        assert plain.ingest(docs).embedded == 1
    with DocumentStore(path, index="exact", precision="float32") as full:
        with pytest.raises(errors.EmbedderMismatch, match=r"bfloat16.*float32.*reembed=True"):
            full.ingest(docs)
        with pytest.raises(errors.EmbedderMismatch, match="reembed"):
            full.retriever().invoke("ferries")
        full.ingest(docs, reembed=True)
        vectors = full._manifest.changes(-1).vectors
        assert full.verify().ok and full.stats()["precision"] == "float32"
    assert vectors.shape == half.shape and not (vectors[:1] == half[:1]).all()


def test_another_splitter_is_refused_until_reembedded(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings()) as store:
        store.ingest(docs)
    small = SplitterConfig(max_tokens=32, min_tokens=8)
    with DocumentStore(path, WordEmbeddings(), splitter=small) as other:
        with pytest.raises(errors.SplitterMismatch, match="reembed"):
            other.ingest(docs)
        other.ingest(docs, reembed=True)
    with DocumentStore(path, WordEmbeddings()) as plain:
        assert plain.ingest(docs).embedded == 0  # goes on with the settings of the store


def test_a_newer_store_is_refused_untouched(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    connection = sqlite3.connect(path / FILE_NAME)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    before = (path / FILE_NAME).read_bytes()
    with pytest.raises(errors.StoreTooNew, match=str(VERSION + 1)):
        DocumentStore(path, WordEmbeddings())
    assert (path / FILE_NAME).read_bytes() == before


def test_a_second_writer_is_refused_with_the_holders_pid(tmp_path: Path, docs: Path) -> None:
    code = (
        "import sys, time; from chains.retrieval.lock import WriterLock; from pathlib import Path\n"
        "with WriterLock(Path(sys.argv[1])).held('ingest'):\n    print('held', flush=True); time.sleep(60)"
    )
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        holder = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "s"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(errors.StoreLocked, match=str(holder.pid)):
                store.ingest(docs)
        finally:
            holder.kill()
            holder.wait()
        assert holder.stdout.close() is None
        assert len(store.ingest(docs).added) == 3  # the lock fell with its process


def test_a_reader_in_another_process_sees_new_documents(tmp_path: Path, docs: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[3]); from retrieval_fakes import WordEmbeddings\n"
        "from chains.retrieval import DocumentStore; s = DocumentStore(sys.argv[1], WordEmbeddings())\n"
        "print(len(s.retriever().invoke('ferries')), flush=True); sys.stdin.readline()\n"
        "print(sum('Ferries' in d.page_content for d in s.retriever().invoke('ferries')))"
    )
    with DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        store.ingest(docs / "garden.md")
        arguments = [sys.executable, "-c", code, tmp_path / "s", docs, Path(__file__).parent]
        reader = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() != "0"
        store.ingest(docs / "harbour.txt")
        out, _ = reader.communicate("go\n", timeout=60)
        assert out.strip() == "1"


def test_stats_and_export(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    stats = store.stats()
    assert (
        stats["documents"] == 3 and stats["kinds"] == {"markdown": 2, "text": 1} and stats["index"] == "clean"
    )
    exported = list(store.export())
    assert [e["text"] for e in exported] == [DOCS["deep/lamp.md"], DOCS["garden.md"], DOCS["harbour.txt"]]
    assert all(c["end"] <= len(e["text"]) for e in exported for c in e["chunks"])


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("mine")
    for path in (file, file / "inner"):
        with pytest.raises(errors.StoreUnwritable, match="found a file"):
            DocumentStore(path, embeddings=WordEmbeddings()).ingest(tmp_path / "absent")
    assert file.read_text() == "mine"


def test_a_holder_that_has_not_written_its_name_yet_is_another_process(tmp_path: Path) -> None:
    text = tmp_path / "note.txt"
    text.write_text("a note")
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings()) as store:
        store.ingest(text)
        lock = tmp_path / "store" / "writer.lock"
        with lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.truncate(0)
            with pytest.raises(errors.StoreLocked, match="found another process writing"):
                store.ingest(text)
