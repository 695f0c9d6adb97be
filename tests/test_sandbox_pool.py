"""The parser pool: one child for many calls, replaced after a failure, plain if no sandbox works."""

from __future__ import annotations

import json
import struct
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import (
    Limits,
    ParserCrashed,
    ParserPool,
    ParserRaised,
    SandboxFailed,
    SandboxLimitError,
    tier,
    worker,
)

LIMITS = Limits(wall_s=8, cpu_s=4, memory_bytes=128 << 20, processes=8, output_bytes=4 << 20)
PARSER = """
import os, sys, time

SEEN = []

def parse(payload):
    what, data = payload["what"], payload.get("data", b"")
    SEEN.append(what)
    if what == "count":
        return {"calls": len(SEEN), "size": len(data), "data": data[:4], "$odd": {"$bytes": 1}}
    if what == "raise": raise KeyError("no such part")
    if what == "exit": os._exit(3)
    if what == "segfault": os.kill(os.getpid(), 11)
    if what == "memory":
        held = []
        while True: held.append(bytearray(1 << 20))
    if what == "spin":
        while True: pass
    if what == "sleep": time.sleep(60)
    if what == "large": return {"data": b"x" * (8 << 20)}
    if what == "fork": 
        if os.fork() == 0: time.sleep(60)
        return {}
    if what == "forked answer":
        os.fork()
        return {}
    if what == "print": 
        print("noise" * 1000); sys.stdout.flush(); os.write(1, b"more noise"); return {"printed": True}
    if what == "read": return {"text": open(payload["path"]).read()}
    if what == "list": return {"names": sorted(os.listdir(payload["path"]))}
    if what == "no dict": return [1]
    if what == "no data": return {"value": object()}
    if what == "deep":
        value = []
        for _ in range(100000): value = [value]
        return {"value": value}
    raise ValueError(what)
"""


@pytest.fixture(scope="module", params=["sandboxed", "landlock", "plain"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParserPool]:
    """A pool over a package of its own, on every tier."""
    folder = tmp_path_factory.mktemp("packages")
    name = f"parser_{request.param}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(PARSER)
    sys.path.insert(0, str(folder))
    patch = pytest.MonkeyPatch()
    if request.param != "sandboxed":
        patch.setattr(tier, "_variants", lambda: ())
    if request.param == "plain":
        patch.setattr(tier, "_try", lambda confinement: "refused")
    tier.current.cache_clear()
    with ParserPool(f"{name}:parse", limits=LIMITS) as made:
        yield made
    patch.undo()
    tier.current.cache_clear()
    sys.path.remove(str(folder))


def test_one_child_serves_many_calls(pool: ParserPool) -> None:
    pool.close()
    answers = [pool.call({"what": "count", "data": bytes(range(256)) * 4000}) for _ in range(3)]
    assert [one["calls"] for one in answers] == [1, 2, 3]
    assert answers[0]["size"] == 1_024_000 and answers[0]["data"] == b"\0\1\2\3"
    assert answers[0]["$odd"] == {"$bytes": 1}


def test_an_exception_in_the_child_comes_back_as_text_and_the_child_lives(pool: ParserPool) -> None:
    before = pool.call({"what": "count"})["calls"]
    with pytest.raises(ParserRaised) as raised:
        pool.call({"what": "raise"})
    assert (raised.value.kind, raised.value.reason) == ("KeyError", "'no such part'")
    assert pool.call({"what": "count"})["calls"] == before + 2


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        *(("exit", "died"), ("segfault", "died"), ("memory", "memory")),
        *(("spin", "timeout"), ("sleep", "timeout"), ("large", "output")),
    ],
)
def test_a_crash_costs_one_error_and_the_next_call_works(pool: ParserPool, what: str, cause: str) -> None:
    with pytest.raises(ParserCrashed) as crashed:
        pool.call({"what": what}, timeout_s=1.5)
    assert crashed.value.cause == cause
    assert pool.target in str(crashed.value)
    assert pool.call({"what": "count"})["calls"] == 1


def test_a_child_that_left_processes_behind_is_replaced(pool: ParserPool) -> None:
    pool.call({"what": "fork"})
    assert pool.call({"what": "count"})["calls"] == 1


def test_a_function_that_forks_does_not_answer_twice(pool: ParserPool) -> None:
    for _ in range(3):
        assert pool.call({"what": "forked answer"}) == {}
        assert "calls" in pool.call({"what": "count"})


def test_what_the_function_prints_does_not_disturb_the_channel(pool: ParserPool) -> None:
    assert pool.call({"what": "print"}) == {"printed": True}


@pytest.mark.parametrize("what", ["no dict", "no data", "deep"])
def test_an_answer_that_is_no_plain_dict_is_an_error(pool: ParserPool, what: str) -> None:
    with pytest.raises(ParserRaised):
        pool.call({"what": what})
    assert pool.call({"what": "count"})["calls"] >= 1


def test_threads_take_turns(pool: ParserPool) -> None:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(pool.call({"what": "count"})["calls"]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 6


def test_files_outside_are_not_there_in_a_sandboxed_child(pool: ParserPool, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    if pool.target.startswith("parser_plain"):
        assert pool.call({"what": "read", "path": str(secret)}) == {
            "text": "hidden"
        }  # as announced on stderr
        return
    for path in (secret, Path(__file__), Path(__file__).parent.parent / "pyproject.toml"):
        with pytest.raises(ParserRaised, match=r"FileNotFoundError|PermissionError"):
            pool.call({"what": "read", "path": str(path)})


def test_only_the_packages_that_are_needed_are_shown() -> None:
    with ParserPool("chains.prompts:load_prompt", limits=LIMITS) as pool, pytest.raises(ParserRaised):
        pool.call({})
    assert pool._packages == ("sandbox", "chains")


def test_a_child_is_replaced_after_its_number_of_calls(pool: ParserPool) -> None:
    with ParserPool(pool.target, limits=LIMITS, calls_per_child=2) as short:
        assert [short.call({"what": "count"})["calls"] for _ in range(4)] == [1, 2, 1, 2]


def test_a_target_that_cannot_be_imported_is_named() -> None:
    with ParserPool("sandbox.nothing:parse") as pool, pytest.raises(SandboxFailed, match="nothing"):
        pool.call({})
    for target in ("parse", "a:b c", ":f"):
        with pytest.raises(SandboxLimitError, match="target"):
            ParserPool(target)
    with pytest.raises(SandboxLimitError, match="importable package"):
        ParserPool("no_such_package:f").call({})


def test_a_payload_that_is_no_plain_data_is_refused_before_it_is_sent(pool: ParserPool) -> None:
    for payload in ({"what": object()}, {"what": {1: 2}}):
        with pytest.raises(TypeError, match="frame"):
            pool.call(payload)
    assert pool.call({"what": "count"})


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("$bytes"), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), _PLAIN, max_size=4))
def test_frames_carry_plain_data_there_and_back(message: dict[str, Any]) -> None:
    frame = worker.pack(message)
    assert worker.unpack(frame[worker.PREFIX.size :]) == message


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_a_damaged_frame_is_a_value_error(body: bytes) -> None:
    try:
        assert isinstance(worker.unpack(body), dict)
    except ValueError:
        pass


def test_a_forged_frame_cannot_grow_the_parent() -> None:
    """X8: 300 references to the same megabyte are refused before a copy of each is made."""
    blob = bytes(2**20)
    text = json.dumps({"many": [{"$bytes": [0, len(blob)]}] * 300}).encode()
    body = struct.pack("<I", len(text)) + text + blob
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected a frame"):
        worker.unpack(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(blob)
