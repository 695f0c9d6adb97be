"""The engine's own thread: it alone touches the decoder, nobody waits for ever, it keeps nothing alive."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_samples import until
from scripted_decoder import ScriptedDecoder
from scripted_requests import by_hand, check_cache, plain, request, whole

from llms.engine.engine import Engine
from llms.engine.score import ScoreJob, ScoreRow
from llms.errors import LLMError
from llms.threads import in_thread

TESTS = Path(__file__).parent


class Watched(ScriptedDecoder):
    """Records which threads call it, and whether two calls overlap."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threads: set[int] = set()
        self.inside = self.overlaps = 0

    def _enter(self, work: Any) -> Any:
        self.overlaps += self.inside > 0
        self.inside += 1
        self.threads.add(threading.get_ident())
        try:
            time.sleep(0.0005)
            return work()
        finally:
            self.inside -= 1

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return self._enter(lambda: ScriptedDecoder.step(self, *args, **kwargs))

    def truncate(self, slot: int, length: int) -> None:
        self._enter(lambda: ScriptedDecoder.truncate(self, slot, length))

    def fork(self, *args: Any) -> None:
        self._enter(lambda: ScriptedDecoder.fork(self, *args))


def test_one_thread_drives_the_decoder_whoever_reads_cancels_or_scores() -> None:
    """Leadership that wandered from waiter to waiter let two threads in at a cancelled task."""
    decoder = Watched()
    engine = Engine(decoder)
    end = time.monotonic() + 1.5

    def reader(number: int) -> None:
        while time.monotonic() < end:
            wanted = plain([number, 5], 6)
            assert whole(engine.submit(request(wanted)).result())[0] == by_hand(wanted)
            engine.score([([number] * 4, [[1], [2, 3]])])

    async def cancels(number: int) -> None:
        while time.monotonic() < end:
            task = asyncio.create_task(engine.submit(request(plain([number, 9], 30))).aresult())
            await asyncio.sleep(0.003)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def all_of_them() -> None:
        await asyncio.gather(*(cancels(i) for i in range(4)))

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(reader, i) for i in range(4)]
        work.append(pool.submit(asyncio.run, all_of_them()))
    assert [one.result() for one in work] == [None] * 5
    assert decoder.overlaps == 0 and len(decoder.threads) == 1
    until(lambda: not engine.scheduler.active and not engine.scores.active)
    assert all(decoder.held[slot] == engine.table._tokens.get(slot, []) for slot in range(decoder.max_slots))


def test_two_threads_may_read_one_stream() -> None:
    stream = Engine(ScriptedDecoder(pause=0.001)).submit(request(plain([1, 2], 40)))
    with ThreadPoolExecutor(2) as pool:
        found = [one.result() for one in [pool.submit(list, stream), pool.submit(list, stream)]]
    assert sorted(t for pieces in found for p in pieces for t in p.tokens) == sorted(
        by_hand(plain([1, 2], 40))
    )


def test_a_decoder_that_cannot_empty_a_slot_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread lives on, and the slot is not used until it can be emptied."""
    decoder = ScriptedDecoder(slots=3)
    engine = Engine(decoder, max_batch=2)
    broken = [True]

    def free(slot: int) -> None:
        if broken[0]:
            raise RuntimeError("no such device")
        ScriptedDecoder.free(decoder, slot)

    def step(*args: Any, **kwargs: Any) -> Any:
        if broken[0]:
            raise RuntimeError("device lost")
        return ScriptedDecoder.step(decoder, *args, **kwargs)

    monkeypatch.setattr(decoder, "free", free)
    monkeypatch.setattr(decoder, "step", step)
    for _ in range(4):
        with pytest.raises((RuntimeError, LookupError, LLMError)):
            asyncio.run(asyncio.wait_for(engine.submit(request(plain([1] * 20, 5))).aresult(), 10))
    broken[0] = False
    answer = asyncio.run(asyncio.wait_for(engine.submit(request(plain([4, 4], 5))).aresult(), 10))
    assert whole(answer)[0] == by_hand(plain([4, 4], 5))


def test_a_stream_that_is_dropped_stops() -> None:
    decoder = ScriptedDecoder(pause=0.001)
    engine = Engine(decoder)
    engine.submit(request(plain([1, 2], 60, run_ahead=0))).next_piece()
    until(lambda: not engine.scheduler.active and not engine.table._busy)
    paused = engine.submit(request(plain([1, 2], 60, run_ahead=1)))
    paused.next_piece()
    until(lambda: not engine.scheduler.busy)
    del paused
    until(lambda: not engine.scheduler.active)


def test_an_engine_that_is_dropped_ends_its_thread() -> None:
    engine = Engine(ScriptedDecoder())
    stream = engine.submit(request(plain([1, 2], 5)))
    decoder, thread = weakref.ref(engine.decoder), engine._thread._thread
    assert thread is not None
    del engine
    assert whole(stream.result())[0] == by_hand(plain([1, 2], 5)), "a stream keeps its engine"
    until(lambda: gc.collect() >= 0 and decoder() is None)
    thread.join(10)
    assert not thread.is_alive()


def test_a_closed_engine_ends_what_is_left_and_refuses_more() -> None:
    engine = Engine(ScriptedDecoder(pause=0.005))
    streams = [engine.submit(request(plain([i], 60, run_ahead=0))) for i in range(3)]
    scoring = ThreadPoolExecutor(1).submit(engine.score, [([i] * 30, [[1]]) for i in range(40)])
    streams[0].next_piece()
    engine.close()
    for stream in streams:
        with pytest.raises(LLMError, match="unloaded"):
            stream.result()
    with pytest.raises(LLMError, match="unloaded"):
        scoring.result(10)
    with pytest.raises(LLMError, match="unloaded"):
        engine.submit(request(plain([1], 3))).result()


async def test_work_that_fills_the_event_loops_executor_delays_no_call() -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    blocked = [loop.run_in_executor(None, release.wait, 20) for _ in range(40)]
    try:
        assert await asyncio.wait_for(in_thread(lambda: 7), 5) == 7
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)
        answer = Engine(ScriptedDecoder()).submit(request(plain([1, 2], 5)))
        assert whole(await asyncio.wait_for(answer.aresult(), 5))[0] == by_hand(plain([1, 2], 5))
    finally:
        release.set()
        await asyncio.gather(*blocked)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_scoring_waits_for_a_slot_while_answers_are_written(slots: int) -> None:
    """With one or two slots it raised a bare LookupError."""
    items = [([i] * 9, [[1], [2, 3], [4, 5, 6]]) for i in range(5)]
    expected = Engine(ScriptedDecoder()).score(items)
    decoder = ScriptedDecoder(slots=slots, pause=0.001)
    engine = Engine(decoder)
    streams = [engine.submit(request(plain([i, 7], 12))) for i in range(3)]
    assert engine.score(items) == expected
    assert [whole(s.result())[0] for s in streams] == [by_hand(plain([i, 7], 12)) for i in range(3)]
    check_cache(engine, decoder, streams)


def test_equal_rows_of_scoring_are_computed_once_and_equal_jobs_end_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = [([i, i + 1] * 15, [[1, 2, 3]]) for i in range(8)]
    decoder = ScriptedDecoder(slots=40)
    expected = Engine(decoder).score(items)
    alone = sum(sum(counts.values()) for counts, _ in decoder.steps)
    decoder = ScriptedDecoder(slots=40, pause=0.02)
    engine = Engine(decoder)
    order: list[int] = []

    settle = ScoreJob.settle

    def settled(job: ScoreJob, row: ScoreRow, values: list[float]) -> None:
        settle(job, row, values)
        if job.done.is_set():
            order.append(row.prompt[0] - 20)

    monkeypatch.setattr(ScoreJob, "settle", settled)
    gate, entered, step = threading.Event(), threading.Event(), decoder.step
    monkeypatch.setattr(decoder, "step", lambda *a, **k: (entered.set(), gate.wait(20), step(*a, **k))[2])
    held = engine.submit(request(plain([1], 2)))
    entered.wait(20)
    with ThreadPoolExecutor(8) as pool:
        same = [pool.submit(engine.score, items) for _ in range(8)]
        until(lambda: engine._inbox._mail.qsize() >= 8)
        gate.set()
    held.close()
    assert all(one.result() == expected for one in same)
    assert sum(sum(counts.values()) for counts, _ in decoder.steps) <= 2 * alone
    order.clear()
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            own = [([number + 20, i] * 15, [[1, 2, 3]]) for i in range(8)]
            pool.submit(engine.score, own)
            time.sleep(0.03)
    assert order == [0, 1, 2, 3]


def test_the_interpreter_exits_while_answers_are_written(embedded_cache: Path) -> None:
    program = (
        "from llms import ChatLocal\n"
        "chat = ChatLocal(model='smollm2-135m', notify=lambda line: None)\n"
        "stream = chat.stream('Tell me a long story.', max_tokens=2000)\n"
        "print(bool(next(stream)))\n"
        "kept = chat.runtime().engine.submit(chat.runtime().request(chat.params(), [1, 2, 3]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"AGENT_CACHE_DIR": str(embedded_cache)},
        cwd=TESTS.parent, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_threads_tasks_and_forked_children_get_no_wrong_token(seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, "engine_crowd.py", str(seconds)],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        cwd=TESTS, capture_output=True, text=True, timeout=seconds + 120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
