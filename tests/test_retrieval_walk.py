"""Folders as they may be: pipes, sockets, links that lead out, hostile rules, files that vanish."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings

from chains.retrieval import DocumentStore
from chains.retrieval.errors import DocumentTooLarge, SourceNotFound, SourceUnreadable
from chains.retrieval.walk import read_file, survey


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("A good document about pelicans.")
    return folder


@pytest.mark.timeout(20)
def test_what_is_no_file_is_named_and_holds_nothing_up(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    os.mkfifo(docs / "pipe.txt")
    os.mkfifo(docs / ".gitignore")
    (docs / "out.txt").symlink_to(tmp_path / "outside.txt")
    (docs / "zero.txt").symlink_to("/dev/zero")
    (docs / "nowhere.txt").symlink_to(docs / "missing")
    (docs / "loop").symlink_to(docs)
    (docs / "old.doc").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"))
    (docs / "empty.txt").write_bytes(b"")
    (docs / "two\nlines.txt").write_text("A name with a line break.")
    with socket.socket(socket.AF_UNIX) as one, DocumentStore(tmp_path / "s", WordEmbeddings()) as store:
        one.bind(os.path.relpath(docs / "door.txt"))
        report = store.ingest(docs)
        reasons = {os.path.basename(unread.path): unread.reason for unread in report.unread}
        assert sorted(os.path.basename(path) for path in report.added) == ["good.txt", "two\nlines.txt"]
        assert "secret" not in "".join(store.text(source.path) for source in store.sources())
    assert set(reasons) == {
        *("pipe.txt", "out.txt", "zero.txt", "nowhere.txt", "loop", "old.doc", "door.txt"),
    }
    assert "a pipe" in reasons["pipe.txt"] and "a socket" in reasons["door.txt"]
    assert "leads out" in reasons["out.txt"] and "save it as .docx" in reasons["old.doc"]
    assert [os.path.basename(path) for path in report.skipped] == ["empty.txt", "old.doc"]


@pytest.mark.timeout(20)
def test_rules_are_matched_in_linear_time(docs: Path) -> None:
    (docs / ".gitignore").write_text(f"{'*a' * 12}*b\n{'**/' * 40}x\nignored.txt\n")
    (docs / ("a" * 200)).write_text("matches nearly")
    (docs / "ignored.txt").write_text("matches")
    started = time.process_time()
    assert sorted(map(len, map(os.path.basename, survey([docs]).files))) == [8, 200]
    assert time.process_time() - started < 5


def test_rules_that_cannot_be_compiled_exclude_nothing(docs: Path) -> None:
    (docs / ".gitignore").write_text("*a" * 100_000)
    assert len(survey([docs]).files) == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty", "/dev/stdin", "/proc/self/mem", "/"])
def test_devices_are_not_read(path: str) -> None:
    with pytest.raises((SourceUnreadable, SourceNotFound)):
        read_file(path)


@pytest.mark.timeout(20)
def test_a_file_that_grows_while_it_is_read_ends_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"x" * 2000)
    with pytest.raises(DocumentTooLarge):
        read_file(str(tmp_path / "a.log"), 1000)


def test_a_file_that_vanishes_is_named(docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chains.retrieval import store as store_module

    def found_then_gone(*args: object) -> object:
        found = survey(*args)  # type: ignore[arg-type]
        (docs / "good.txt").unlink()
        return found

    (docs / "other.txt").write_text("Another.")
    monkeypatch.setattr(store_module, "survey", found_then_gone)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        report = store.ingest(docs)
    assert [os.path.basename(path) for path in report.added] == ["other.txt"]
    assert [os.path.basename(unread.path) for unread in report.unread] == ["good.txt"]
