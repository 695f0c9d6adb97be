"""Ingest as users see it: files that are added, updated, moved, removed, skipped and refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, names, write
from retrieval_files import every_format, paragraph, run, word

from chains.retrieval import DocumentStore, Progress, errors

pytest_plugins = ["retrieval_fixtures"]


def test_changed_moved_deleted(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    (docs / "harbour.txt").write_text("The harbour is closed in winter.\n")
    (docs / "deep/lamp.md").rename(docs / "light.md")
    (docs / "garden.md").unlink()
    report = store.ingest(docs)
    assert names(report.updated) == ["harbour.txt"]
    assert [(os.path.basename(a), os.path.basename(b)) for a, b in report.moved] == [("lamp.md", "light.md")]
    assert names(report.deleted) == ["garden.md"]
    assert names(tuple(s.path for s in store.sources())) == ["harbour.txt", "light.md"]
    assert not any("six" in d.page_content for d in store.retriever().invoke("six harbour"))


def test_a_change_within_the_same_tick_is_seen(store: DocumentStore, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("aaaa bbbb", "cccc dddd", "eeee ffff"):
        path.write_text(text)
        store.ingest(path)
        assert store.text(str(path)) == text


def test_prune_can_be_left_off(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    (docs / "garden.md").unlink()
    assert store.ingest(docs, prune=False).deleted == ()
    assert len(store.sources()) == 3


def test_the_same_text_under_two_paths_is_embedded_once(tmp_path: Path) -> None:
    embeddings = WordEmbeddings()
    docs = write(tmp_path / "d", {"a/same.txt": "One text only.", "b/same.txt": "One text only."})
    with DocumentStore(tmp_path / "s", embeddings=embeddings) as store:
        report = store.ingest(docs)
        assert len(report.added) == 2 and report.chunks == 2 and report.embedded == 1
        assert len(store.retriever().invoke("text")) == 2


def test_dry_run_writes_nothing(store: DocumentStore, docs: Path) -> None:
    report = store.ingest(docs, dry_run=True)
    assert report.dry_run and len(report.added) == 3 and store.sources() == [] and store.generation == 0


def test_ignored_hidden_and_linked_files_stay_out(store: DocumentStore, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.txt": "secret"})
    docs = write(
        tmp_path / "docs",
        {
            "keep.txt": "keep",
            ".hidden.txt": "hidden",
            ".git/config.txt": "git",
            "build/out.txt": "built",
            "sub/skip.log": "log",
            "sub/keep.log": "kept log",
            ".gitignore": "build/\n*.log\n",
            "sub/.gitignore": "!keep.log\n",
        },
    )
    (docs / "link.txt").symlink_to(outside / "secret.txt")
    (docs / "linked").symlink_to(outside)
    (docs / "loop").symlink_to(docs)
    assert names(store.ingest(docs).added) == ["keep.txt", "keep.log"]
    assert names(store.ingest(docs / ".hidden.txt").added) == [".hidden.txt"]  # named itself


def test_a_link_that_cannot_be_read_is_skipped(
    store: DocumentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = write(tmp_path / "docs", {"keep.txt": "keep"})
    (docs / "link.txt").symlink_to("/nowhere")
    resolve = os.path.realpath

    def realpath(path: str | Path) -> str:
        if str(path).endswith("link.txt"):  # as /proc/PID/exe of a kernel thread
            raise FileNotFoundError(2, "No such file or directory", path)
        return resolve(path)

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert names(store.ingest(docs).added) == ["keep.txt"]


def test_every_format_is_ingested_and_found(store: DocumentStore, tmp_path: Path) -> None:
    for name, data in every_format().items():
        (tmp_path / name).write_bytes(data)
    report = store.ingest([tmp_path / name for name in every_format()])
    assert [f.reason for f in report.failed] == [] and len(report.added) == len(every_format())
    page = store.retriever(k=1, filter={"type": "pdf"}).invoke("otters")[0]
    assert page.metadata["page"] == 2


def test_one_bad_file_stops_no_other(store: DocumentStore, docs: Path) -> None:
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    (docs / "empty.md").write_text("")
    (docs / "raw.md").write_bytes(b"\0\1\2\3")
    (docs / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (docs / "big.txt").write_text("word " * 50_000)
    report = store.ingest(docs, max_file_bytes=100_000)
    found = {os.path.basename(f.path): type(f.error).__name__ for f in report.failed}
    assert found == {
        "bad.pdf": found["bad.pdf"],
        "raw.md": "BinaryDocument",
        "big.txt": "DocumentTooLarge",
    }
    assert found["bad.pdf"] in {"DamagedDocument", "EmptyDocument"}
    assert len(report.added) == 3 and names(report.skipped) == ["empty.md", "photo.jpg"]
    named = store.ingest([docs / "empty.md", docs / "photo.jpg"])
    assert [type(f.error).__name__ for f in named.failed] == ["EmptyDocument", "UnsupportedFormat"]
    (docs / "harbour.txt").write_text(" ")  # what was stored is kept, and that is news
    assert names(tuple(f.path for f in store.ingest(docs, max_file_bytes=100_000).failed)).count(
        "harbour.txt"
    )


def test_a_file_that_became_bad_keeps_what_was_stored(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    (docs / "harbour.txt").write_bytes(b"\0\0\0\0")
    report = store.ingest(docs)
    assert names(tuple(f.path for f in report.failed)) == ["harbour.txt"]
    assert "Ferries" in store.text(str(docs / "harbour.txt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder_as_a_user(store: DocumentStore, docs: Path) -> None:
    docs.chmod(0)
    try:
        with pytest.raises(errors.SourceUnreadable):
            store.ingest(docs)
    finally:
        docs.chmod(0o755)


def test_paths_that_cannot_be_ingested(store: DocumentStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.SourceNotFound, match="nothing at"):
        store.ingest(tmp_path / "none")
    with pytest.raises(errors.NothingToIngest, match="found none"):
        store.ingest(tmp_path / "empty")
    (tmp_path / "only.md").write_text("")
    with pytest.raises(errors.EmptyDocument):
        store.ingest(tmp_path / "only.md").raise_if_nothing()


def test_names_that_are_no_utf8_are_named(store: DocumentStore, docs: Path) -> None:
    with open(os.fsencode(docs) + b"/bad\xff\n.txt", "w") as handle:
        handle.write("text")
    (docs / "new\nline.txt").write_text("A name with a line break.")
    report = store.ingest(docs)
    assert "\\xff" in report.failed[0].path and "new\nline.txt" in names(report.added)
    report.as_dict()["failed"][0]["path"].encode()


def test_progress_counts_up_to_the_end(store: DocumentStore, docs: Path) -> None:
    seen: list[Progress] = []
    report = store.ingest(docs, progress=seen.append)
    assert seen[-1].files_done == seen[-1].files_total == 3
    assert max(step.chunks for step in seen) == report.embedded
    assert [s.files_done for s in seen] == sorted(s.files_done for s in seen)


def test_the_report_says_where_changes_are_pending(store: DocumentStore, tmp_path: Path) -> None:
    changed = f"<w:ins>{run('650')}</w:ins><w:del><w:r><w:delText>600</w:delText></w:r></w:del>"
    (tmp_path / "contract.docx").write_bytes(
        word(paragraph(f"{run('The fee is ')}{changed}{run(' dollars.')}"))
    )
    report = store.ingest(tmp_path / "contract.docx")
    ((path, note),) = report.notes
    assert path.endswith("contract.docx") and "changes are pending (2 tracked)" in note
    assert report.unread == () and report.as_dict()["notes"][0]["note"] == note
    assert store.search("How much is the fee?")[0].chunk.text == "The fee is 650 dollars."
