"""A store that cannot be written is opened read-only, and sees the changes of a process that can write it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings

from chains.retrieval import DocumentStore, database, errors

pytest_plugins = ["retrieval_fixtures"]


def test_a_read_only_store_still_answers(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[2]); from retrieval_fakes import WordEmbeddings\n"
        "from chains.retrieval import DocumentStore, errors; import sqlite3, tokenizers, pathspec\n"
        "import chains.retrieval.langchain, langchain_core.callbacks, langchain_core.tracers.langchain\n"
        "os.setuid(54321) if os.geteuid() == 0 else None\n"
        "s = DocumentStore(sys.argv[1], WordEmbeddings(), index='exact')\n"
        "print(len(s.retriever().invoke('ferries')))\n"
        "try:\n    s.remove('x')\nexcept errors.StoreUnwritable:\n    print('refused')"
    )
    for part in (path, *path.iterdir()):
        part.chmod(0o555 if part.is_dir() else 0o444)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, path, Path(__file__).parent], capture_output=True, text=True
        )
        assert done.stdout.split() == ["4", "refused"], done.stderr
    finally:
        path.chmod(0o755)


def test_a_reader_that_sees_no_log_sees_what_others_wrote(
    tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings()) as store:
        store.ingest(docs / "garden.md")
    allowed: list[bool] = []
    monkeypatch.setattr(database, "_writable", lambda path: bool(allowed))
    with DocumentStore(path, WordEmbeddings()) as reader, caplog.at_level(logging.WARNING):
        assert reader._manifest.read_only and reader.stats()["index"] == "exact"
        assert not any("Ferries" in d.page_content for d in reader.retriever().invoke("ferries"))
        allowed.append(True)
        with DocumentStore(path, WordEmbeddings()) as writer:
            allowed.clear()
            writer.ingest(docs / "harbour.txt")
            # Once while the writer's log exists, and once after it was merged into the file.
            assert "Ferries" in reader.retriever(k=1).invoke("ferries")[0].page_content
            writer.ingest(docs / "deep")
        assert "dusk" in reader.retriever(k=1).invoke("lamp at dusk")[0].page_content
        assert reader._manifest.read_only and reader.verify().ok and not caplog.records
        with pytest.raises(errors.StoreUnwritable):
            reader.ingest(docs)


def test_a_reader_becomes_a_writer_when_there_is_room(
    tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings(), index="exact") as store:
        store.ingest(docs / "garden.md")
    with monkeypatch.context() as full:
        full.setattr(database, "_writable", lambda path: False)
        reader = DocumentStore(path, WordEmbeddings(), index="exact")
    with reader:
        assert reader._manifest.read_only
        assert len(reader.ingest(docs / "harbour.txt").added) == 1 and not reader._manifest.read_only


def test_a_read_only_mount_is_read(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings()) as store:
        store.ingest(docs)
    if not shutil.which("unshare"):
        pytest.skip("unshare (util-linux) is not installed")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from retrieval_fakes import WordEmbeddings\n"
        "from chains.retrieval import DocumentStore, errors\n"
        "s = DocumentStore(sys.argv[1], WordEmbeddings())\n"
        "print(len(s.retriever().invoke('ferries')), s.verify().ok)\n"
        "try:\n    s.remove('x')\nexcept errors.StoreUnwritable:\n    print('refused')"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    space = ["unshare", "-Urm", "sh", "-c", mount, "sh", str(path)]
    probe = subprocess.run([*space, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this kernel refuses namespaces to users: {probe.stderr.strip()}")
    done = subprocess.run(
        [*space, sys.executable, "-c", code, path, Path(__file__).parent], capture_output=True, text=True
    )
    assert done.stdout.split() == ["4", "True", "refused"] and done.stderr == "", done
