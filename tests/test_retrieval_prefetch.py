"""Files are prepared while others are embedded: in order, bounded, with errors passed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, Progress, ingest
from chains.retrieval.ingest import Prefetcher
from chains.retrieval.parsing import FileParser


def weight(item: int) -> int:
    return item


def waited(what: object, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)
    return bool(what())  # type: ignore[operator]


def test_items_come_in_order_from_another_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(threading.get_ident())
            yield number

    with Prefetcher(items(), weight, 7) as prefetched:
        assert list(prefetched) == list(range(100))
    assert set(made) and threading.get_ident() not in made


def test_no_more_than_the_limit_waits() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield 10

    with Prefetcher(items(), weight, 30) as prefetched:
        assert waited(lambda: len(made) == 3)
        time.sleep(0.05)
        assert len(made) == 3
        for taken, _ in enumerate(prefetched, 1):
            assert len(made) <= taken + 3
    assert taken == 100


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise MemoryError("while parsing")

    seen = []
    with pytest.raises(MemoryError, match="while parsing"), Prefetcher(items(), weight, 99) as prefetched:
        for item in prefetched:
            seen.append(item)
    assert seen == [1, 2]


def test_who_gives_up_ends_the_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        while True:
            made.append(1)
            yield 1

    prefetched = Prefetcher(items(), weight, 5)
    with pytest.raises(KeyboardInterrupt), prefetched:
        next(iter(prefetched))
        raise KeyboardInterrupt
    assert not prefetched._thread.is_alive()


def test_files_are_parsed_while_others_are_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BATCH", 2)
    docs = write(tmp_path / "docs", {f"{n}.txt": f"Text number {n}." for n in range(6)})
    parsed: list[str] = []
    original = FileParser.parse

    def noted(self: FileParser, path: str, data: bytes) -> object:
        found = original(self, path, data)
        parsed.append(path)
        return found

    monkeypatch.setattr(FileParser, "parse", noted)

    class SlowEmbeddings(WordEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if not self.embedded:
                assert waited(lambda: len(parsed) == 6), parsed
            return super().embed_documents(texts)

    seen: list[Progress] = []
    with DocumentStore(tmp_path / "s", SlowEmbeddings(), index="exact") as store:
        report = store.ingest(docs, progress=seen.append)
    assert len(report.added) == 6 and report.embedded == 6
    # A file counts as done when its document can be found, not when it is parsed.
    assert [(step.files_done, step.chunks) for step in seen] == [
        (0, 2), (2, 2), (2, 4), (4, 4), (4, 6), (6, 6)
    ]  # fmt: skip


def test_an_interrupted_ingest_keeps_whole_batches_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", 4)
    docs = write(tmp_path / "docs", {f"{n:02}.txt": f"Text number {n}." for n in range(20)})

    class Interrupted(WordEmbeddings):
        tired = True

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if self.tired and len(self.embedded) >= 8:
                raise KeyboardInterrupt
            return super().embed_documents(texts)

    embeddings = Interrupted()
    with DocumentStore(tmp_path / "s", embeddings, index="exact") as store:
        with pytest.raises(KeyboardInterrupt):
            store.ingest(docs)
        assert waited(lambda: "prefetch" not in {thread.name for thread in threading.enumerate()})
        assert len(store.sources()) == 8 and store.verify().ok
        embeddings.tired = False
        report = store.ingest(docs)
        assert len(report.unchanged) == 8 and report.embedded == 12 and len(store.sources()) == 20
