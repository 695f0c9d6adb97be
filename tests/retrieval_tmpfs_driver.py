"""Fills the small file system at FOLDER before each of many ingests, and checks the store afterwards.

Run as FOLDER DOCS INDEX FREE..., where each FREE is the number of KiB that are free when a round begins. Each
round is a forked process, so that the one that dies is known. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, SearchOptions, chroma, errors

chroma._DELTA_LEAST = 8  # so that Chroma is written by every ingest
KEPT = {f"kept{n}.txt": f"Document {n} speaks of subject{n} and of boats." for n in range(6)}


def later(number: int) -> dict[str, str]:
    return {f"new{n}.txt": f"Heron {number} of pond {n}. " + f"filler{n} " * 300 for n in range(10)}


def in_child(action: Callable[[], str]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, action().encode())
        except BaseException:
            traceback.print_exc()
            os._exit(4)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    if status:
        raise SystemExit(f"a process ended with status {status}")
    return told


def refused_or(action: Callable[[], str]) -> str:
    """Return the result of `action`, or the name of the error that the store raised."""
    try:
        return action()
    except (errors.StoreUnwritable, errors.IndexUnavailable) as error:
        return type(error).__name__


def ballast(folder: Path, free_kib: int) -> None:
    """Fill the file system except for `free_kib` KiB."""
    found = os.statvfs(folder)
    with (folder / "ballast").open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, found.f_bavail * found.f_frsize - free_kib * 1024))


def main() -> None:
    disk, docs, free = Path(sys.argv[1]), Path(sys.argv[2]), [int(one) for one in sys.argv[4:]]
    options: dict[str, Any] = {"index": sys.argv[3]}

    def opened() -> DocumentStore:
        return DocumentStore(disk / "store", WordEmbeddings(), **options)

    def ingest() -> str:
        with opened() as store:
            store.ingest(docs)
        return "done"

    def whole(texts: dict[str, str], before: dict[str, str]) -> str:
        """Check that each document is there, old or new, and that hits match the stored texts."""
        with opened() as store:
            held = {os.path.basename(r.path): store.text(r.path) for r in store.sources()}
            assert all(held[name] == text for name, text in KEPT.items())
            assert all(held[name] in (texts.get(name), before.get(name)) for name in held if name not in KEPT)
            for number in range(len(KEPT)):
                hit = store.search(f"subject{number}", SearchOptions(k=1))[0]
                assert hit.text == KEPT[f"kept{number}.txt"]
            wrong = [problem for problem in store.verify().problems if "Chroma" not in problem]
            assert not wrong, wrong
        return "whole"

    def settled() -> str:
        with opened() as store:
            store.ingest(docs)
            report = store.verify(repair=True)
            assert report.ok and report.index in ("clean", "exact") and report.recall == 1.0, report
            assert len(store.sources()) == len(os.listdir(docs))
        return "settled"

    write(docs, KEPT)
    in_child(ingest)
    met: Counter[str] = Counter()
    before: dict[str, str] = {}
    for number, kib in enumerate(free):
        texts = later(number)
        write(docs, texts)
        ballast(disk, kib)
        met[in_child(lambda: refused_or(ingest))] += 1
        met[in_child(lambda t=texts, b=before: whole(t, b))] += 1  # reading wants no room
        (disk / "ballast").unlink()
        in_child(lambda t=texts, b=before: whole(t, b))
        in_child(settled)
        before = texts
    sys.stdout.write(json.dumps({"rounds": len(free), "met": met}) + "\n")


if __name__ == "__main__":
    main()
