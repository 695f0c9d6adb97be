"""Kills a process that ingests, removes and rebuilds at random moments, and checks the store each time.

Run as FOLDER ROUNDS SEED. Workers are forked, so that a round needs no imports. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from retrieval_fakes import WordEmbeddings

from chains.retrieval import DocumentStore, SearchOptions, chroma

# With this, every other step writes Chroma, and the others are compared row by row.
chroma._DELTA_LEAST = 8
FILES = 12
# Twelve small documents take less than a megabyte in blocks; a file that grew with each kill would not.
MAX_BLOCKS_BYTES = 16 * 1024 * 1024


def text_of(number: int, version: int) -> str:
    words = random.Random(f"{number} {version}")
    lines = [
        " ".join(f"w{words.randrange(900)}" for _ in range(60)) + f". mark{number}v{version}."
        for _ in range(1 + version % 9)
    ]
    return "\n\n".join(lines)


def note(log: int, **event: object) -> None:
    os.write(log, json.dumps(event).encode() + b"\n")


def work(folder: Path, seed: int, log: int) -> None:
    """Ingest, remove and rebuild until killed; announce every step before and after."""
    chance = random.Random(seed)
    store = DocumentStore(folder / "store", WordEmbeddings())
    docs = folder / "docs"
    for step in range(10_000):
        number, version = chance.randrange(FILES), seed * 10_000 + step
        path = docs / f"d{number}.txt"
        kind = chance.choices(["ingest", "remove", "rebuild"], [8, 2, 2])[0]
        note(log, begin=kind, number=number, version=version)
        if kind == "ingest":
            path.write_text(text_of(number, version))
            store.ingest(path)
        elif kind == "remove":
            store.remove(path)
        else:
            store._nearest.rebuild()
            store.verify(repair=True)
        note(log, end=kind, number=number, version=version)


def check(folder: Path, state: dict[str, object], open_step: dict[str, object] | None) -> None:
    """Fail if a committed document is lost or changed, a hit does not exist, or neighbours are wrong."""
    with DocumentStore(folder / "store", WordEmbeddings()) as store:
        present = {Path(record.path).stem: record for record in store.sources()}
        for name, version in state.items():
            if open_step and open_step["begin"] != "rebuild" and f"d{open_step['number']}" == name:
                allowed = {version, open_step["version"] if open_step["begin"] == "ingest" else None}
            else:
                allowed = {version}
            found = store.text(present[name].path) if name in present else None
            texts = {None if v is None else text_of(int(name[1:]), int(str(v))) for v in allowed}
            assert found in texts, f"{name}: expected version {allowed}, found {found and found[-20:]!r}"
        assert set(present) <= set(state), "a document that was never committed"
        verify = store.verify()
        wrong = [problem for problem in verify.problems if "Chroma" not in problem]
        assert not wrong, wrong
        assert verify.recall >= 0.97, verify
        for name in list(present)[:4]:
            probe = store.text(present[name].path)[:200]
            hits = store.search(probe, SearchOptions(k=6, mode="dense"))
            assert len(hits) == min(6, store.stats()["chunks"]), "a row without a chunk took a place"
            assert all(store.text(hit.chunk.source, hit.start, hit.end) == hit.text for hit in hits)
        store.verify(repair=True)
        assert store.stats()["index"] == "clean" and store.verify().recall >= 0.97
        assert store.stats()["bytes_on_disk"] < MAX_BLOCKS_BYTES, store.stats()


def killed(child: int, reading: int, chance: random.Random) -> list[dict[str, object]]:
    """Let a worker run for some steps, kill it, and return what it announced."""
    lines = b""
    # The worker is killed within its first eight steps or between them, not while it starts.
    for _ in range(chance.randrange(1, 16)):
        lines += os.read(reading, 4096)
        if lines.count(b"\n") >= 16:
            break
    time.sleep(chance.uniform(0, 0.15) ** 2 * 6)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "the worker ended by itself"
    while more := os.read(reading, 65536):
        lines += more
    os.close(reading)
    return [json.loads(line) for line in lines.split(b"\n")[:-1]]


def round_(folder: Path, seed: int, state: dict[str, object]) -> tuple[str, int]:
    """Run one worker until it is killed; update `state` to what it committed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            work(folder, seed, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    os.close(writing)
    events = killed(child, reading, random.Random(seed))
    open_step = None
    for event in events:
        open_step = event if "begin" in event else None
        if event.get("end") == "ingest":
            state[f"d{event['number']}"] = event["version"]
        elif event.get("end") == "remove":
            state[f"d{event['number']}"] = None
    checker = os.fork()
    if checker == 0:
        try:
            check(folder, state, open_step)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
        os._exit(0)
    assert os.waitpid(checker, 0)[1] == 0, f"round with seed {seed} after {open_step}"
    return (str(open_step["begin"]) if open_step else "between"), len(events)


def settle(folder: Path, state: dict[str, object]) -> None:
    """Read what an unfinished step left, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with DocumentStore(folder / "store", WordEmbeddings(), index="exact") as store:
            found = {Path(record.path).stem: store.text(record.path) for record in store.sources()}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    for name in state:
        text = found.get(name)
        mark = text.rsplit("v", 1)[1].rstrip(".") if text else None
        state[name] = int(mark) if mark else None


def main() -> None:
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    (folder / "docs").mkdir(parents=True)
    state: dict[str, object] = {f"d{number}": None for number in range(FILES)}
    died: dict[str, int] = {}
    steps = 0
    for number in range(rounds):
        during, events = round_(folder, seed + number, state)
        settle(folder, state)
        died[during] = died.get(during, 0) + 1
        steps += events // 2
    sys.stdout.write(json.dumps({"rounds": rounds, "killed_during": died, "steps": steps}) + "\n")


if __name__ == "__main__":
    main()
