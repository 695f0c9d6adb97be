"""Makes every n-th write of ingest, update, removal and rebuild fail, and checks the store each time.

Run as FOLDER ERRNO HOW SAMPLE SEED [FIRST LAST]. HOW is "once" (only that write fails) or "on" (it and all
later ones). SAMPLE is the number of writes that are tried, or 0 for every one from FIRST to LAST. Prints one
JSON line.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import write_faults
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, SearchOptions, chroma, errors

chroma._DELTA_LEAST = 8  # so that Chroma is written by most steps
KEPT = {f"kept{n}.txt": f"Document {n} speaks of subject{n} and of boats." for n in range(6)}
BEFORE = {"changed.txt": "The ferry leaves at six.", "gone.txt": "The lamp is old."}
AFTER = {
    "changed.txt": "The ferry leaves at nine.",
    "new.txt": "\n\n".join(f"Heron {n}. " * 60 for n in range(12)),
}


def opened(folder: Path) -> DocumentStore:
    return DocumentStore(folder / "store", WordEmbeddings())


def steps(folder: Path) -> list[tuple[str, Callable[[DocumentStore], object]]]:
    docs = folder / "docs"

    def rebuild(store: DocumentStore) -> None:
        store._nearest.rebuild()
        store.verify(repair=True)

    return [
        ("change", lambda store: store.ingest(docs / "changed.txt")),
        ("add", lambda store: store.ingest(docs / "new.txt")),
        ("remove", lambda store: store.remove(docs / "gone.txt")),
        ("rebuild", rebuild),
    ]


def work(folder: Path) -> str:
    """Yield every step with the name of its error; other errors than the store's fail the test."""
    told = {name: "not begun" for name, _ in steps(folder)}
    try:
        with opened(folder) as store:
            for name, step in steps(folder):
                try:
                    step(store)
                    told[name] = "done"
                except errors.StoreError as error:
                    told[name] = type(error).__name__
    except errors.StoreUnwritable:
        pass  # not even opened
    return json.dumps(told)


def in_child(action: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(4)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the check failed")


def fill(folder: Path) -> None:
    write(folder / "docs", KEPT | BEFORE)
    with opened(folder) as store:
        store.ingest(folder / "docs")


def check(folder: Path, told: dict[str, str]) -> None:
    """Fail if a committed document, or the result of a step that succeeded, is missing."""
    docs = folder / "docs"
    with opened(folder) as store:
        held = {os.path.basename(r.path): store.text(r.path) for r in store.sources()}
        assert {name: held.get(name) for name in KEPT} == KEPT
        was, now = BEFORE["changed.txt"], AFTER["changed.txt"]
        assert held["changed.txt"] == now or (told["change"] != "done" and held["changed.txt"] == was)
        assert held.get("new.txt") == AFTER["new.txt"] or (told["add"] != "done" and "new.txt" not in held)
        assert "gone.txt" not in held or told["remove"] != "done"
        wrong = [problem for problem in store.verify().problems if "Chroma" not in problem]
        assert not wrong, wrong
        for number in range(len(KEPT)):
            hit = store.search(f"subject{number}", SearchOptions(k=1))[0]
            assert store.text(hit.chunk.source, hit.start, hit.end) == hit.text == KEPT[f"kept{number}.txt"]
        (docs / "gone.txt").unlink()
        store.ingest(docs)
        assert {os.path.basename(r.path) for r in store.sources()} == set(KEPT) | set(AFTER)
        report = store.verify(repair=True)
        assert report.ok and report.recall == 1.0 and report.index == "clean", report


def round_(folder: Path, base: Path, fails: Callable[[int], int]) -> tuple[dict[str, str], int]:
    shutil.rmtree(folder / "store", ignore_errors=True)
    shutil.copytree(base / "store", folder / "store")
    write(folder / "docs", KEPT | BEFORE)
    write(folder / "docs", AFTER)
    told, count = write_faults.run(lambda: work(folder), folder / "store", fails)
    if not told.startswith("{"):
        raise SystemExit(f"the worker {told}")
    return json.loads(told), count


def main() -> None:
    folder, code, how, sample, seed = Path(sys.argv[1]), sys.argv[2], *sys.argv[3:6]
    number = int(getattr(errno, code))
    in_child(lambda: fill(folder))
    base = folder.with_name(folder.name + "-base")
    shutil.copytree(folder, base)
    told, count = round_(folder, base, lambda _: 0)
    assert set(told.values()) == {"done"}, told
    in_child(lambda: check(folder, told))
    first, last = (int(one) for one in (sys.argv[6:8] or ("1", str(count))))
    places = list(range(first, min(last, count) + 1))
    if int(sample):
        places = sorted(random.Random(int(seed)).sample(places, int(sample)))
    met: Counter[str] = Counter()
    for place in places:
        sys.stderr.write(f"write {place}\n")
        told, _ = round_(
            folder, base, lambda n, p=place: number if (n == p if how == "once" else n >= p) else 0
        )
        try:
            in_child(lambda told=told: check(folder, told))
        except SystemExit as failure:
            raise SystemExit(
                f"{failure}: write {place} of {count} failed with {code} ({how}): {told}"
            ) from None
        met.update(told.values())
    sys.stdout.write(json.dumps({"writes": count, "tried": len(places), "met": met}) + "\n")


if __name__ == "__main__":
    main()
