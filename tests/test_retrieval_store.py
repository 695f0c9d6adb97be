"""The store as its users meet it: ingest, update, search, remove, refuse."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, write
from retrieval_files import every_format

import chains.retrieval
from chains.retrieval import DocumentStore, Fusion, Progress, SearchOptions, SplitterConfig, errors
from chains.retrieval.schema import FILE_NAME, VERSION

DOCS = {
    "garden.md": "# Garden\n\n## Tomatoes\n\nTomatoes need sun.\n\n## Roses\n\nRoses like clay soil.\n",
    "harbour.txt": "The harbour opens at six. Ferries leave every hour.\n",
    "deep/lamp.md": "# Lighthouse\n\nThe lamp is lit at dusk by the keeper.\n",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", DOCS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings()) as opened:
        yield opened


def names(paths: tuple[str, ...]) -> list[str]:
    return [os.path.basename(path) for path in paths]


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


def test_search_says_where_a_passage_stands(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    found = store.retriever(k=1).invoke("When do roses like clay?")[0]
    meta = found.metadata
    assert meta["source"] == str(docs / "garden.md") and meta["title"] == "Garden"
    assert store.text(meta["source"], meta["start"], meta["end"]) == found.page_content
    assert meta["line"] == 1 + DOCS["garden.md"][: meta["start"]].count("\n")
    assert 0 < meta["score"] <= 1 and meta["page"] is None


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


def test_remove_a_file_and_a_folder(store: DocumentStore, docs: Path) -> None:
    store.ingest(docs)
    assert store.remove(docs / "garden.md") == [str(docs / "garden.md")]
    assert store.remove(docs / "none.md") == []
    assert len(store.remove(docs)) == 2 and store.sources() == []
    assert store.retriever().invoke("harbour") == []


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


def test_progress_counts_up_to_the_end(store: DocumentStore, docs: Path) -> None:
    seen: list[Progress] = []
    report = store.ingest(docs, progress=seen.append)
    assert seen[-1].files_done == seen[-1].files_total == 3
    assert max(step.chunks for step in seen) == report.embedded
    assert [s.files_done for s in seen] == sorted(s.files_done for s in seen)


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


def test_a_read_only_store_still_answers(tmp_path: Path, docs: Path) -> None:
    path = tmp_path / "s"
    with DocumentStore(path, WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[2]); from retrieval_fakes import WordEmbeddings\n"
        "from chains.retrieval import DocumentStore, errors; import sqlite3, tokenizers, pathspec\n"
        "import chains.retrieval.retriever, langchain_core.callbacks, langchain_core.tracers.langchain\n"
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
        assert done.stdout.split() == ["3", "refused"], done.stderr
    finally:
        path.chmod(0o755)


def test_the_default_embedder_finds_meaning(tmp_path: Path, docs: Path) -> None:
    with DocumentStore(tmp_path / "s") as store:
        store.ingest(docs)
        assert (
            "Ferries" in store.retriever(k=1).invoke("At what time can ships enter the port?")[0].page_content
        )
        assert store.best_score("ferry departures") > store.best_score("quantum chromodynamics")
        long = "ships and ferries " * 400
        assert store.search(long, SearchOptions(k=1))[0].cosine > 0.2
