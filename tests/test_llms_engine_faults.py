"""Errors and Ctrl-C in the middle of a step: no reader waits for ever or reads wrong text."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from engine_samples import MODEL, until
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_decoder import ScriptedDecoder
from scripted_requests import by_hand, check_cache, limit_steps, plain, request, whole
from test_llms_engine_ahead import ACTIONS, asked

from llms.decoders.reference import ReferenceDecoder
from llms.engine.engine import Engine
from llms.engine.stream import Stream, _call_soon
from llms.errors import LLMError, NotEnoughMemory


class Planted(Exception):
    """An error of the device."""


class Faulty(ScriptedDecoder):
    """A decoder whose calls fail according to a plan, before or after they have changed the cache."""

    def __init__(self, faults: dict[int, tuple[type[BaseException], bool]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults, self.calls, self.met = faults, 0, 0

    def _guarded(self, work: Callable[[], Any]) -> Any:
        self.calls += 1
        error, after = self.faults.get(self.calls, (None, False))
        self.met += error is not None
        if error is not None and not after:
            raise error("planted")
        found = work()
        if error is not None:
            raise error("planted")
        return found

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return self._guarded(lambda: ScriptedDecoder.step(self, *args, **kwargs))

    def fork(self, *args: Any, **kwargs: Any) -> Any:
        return self._guarded(lambda: ScriptedDecoder.fork(self, *args, **kwargs))


FAULTS = st.dictionaries(
    st.integers(1, 40),
    st.tuples(
        st.sampled_from([Planted, KeyboardInterrupt, KeyboardInterrupt, NotEnoughMemory]), st.booleans()
    ),
    max_size=5,
).map(
    # A step without memory changes nothing, by the contract of decoders.
    lambda plan: {at: (e, after and e is not NotEnoughMemory) for at, (e, after) in plan.items()}
)


def read(stream: Stream, action: str) -> list[int]:
    """Read the tokens of one piece, or of all."""
    found: list[int] = []
    while True:
        piece = stream.next_piece()
        if piece is None:
            return found
        found += piece.tokens
        if action == "read":
            return found


SCHEDULES = (
    st.lists(asked(), min_size=1, max_size=6),
    st.lists(ACTIONS, max_size=20),
    FAULTS,
    st.booleans(),
    st.sampled_from([500, 60]),
)


@settings(max_examples=150, deadline=None)
@given(*SCHEDULES)
def test_every_answer_is_right_or_an_error(
    requests: list[dict[str, Any]],
    schedule: list[tuple[str, int]],
    faults: dict[int, tuple[type[BaseException], bool]],
    ahead: bool,
    pages: int,
) -> None:
    play(requests, schedule, faults, ahead, pages)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(*SCHEDULES)
def test_every_answer_of_20000_schedules_is_right_or_an_error(
    requests: list[dict[str, Any]],
    schedule: list[tuple[str, int]],
    faults: dict[int, tuple[type[BaseException], bool]],
    ahead: bool,
    pages: int,
) -> None:
    play(requests, schedule, faults, ahead, pages)


def play(
    requests: list[dict[str, Any]],
    schedule: list[tuple[str, int]],
    faults: dict[int, tuple[type[BaseException], bool]],
    ahead: bool,
    pages: int,
) -> None:
    """Read requests by a schedule while the decoder fails; check every answer, and then the cache."""
    decoder = Faulty(faults, ahead=ahead, pages=pages)
    engine = Engine(decoder, max_batch=5)
    limit_steps(engine, 2000)
    streams = [engine.submit(request(one)) for one in requests]
    seen: list[list[int]] = [[] for _ in requests]
    ended: set[int] = set()
    closed: set[int] = set()
    for action, which in [*schedule, *(("all", i) for i in range(len(requests)))]:
        index = which % len(streams)
        if action == "close" and index not in ended:
            streams[index].close()
            closed.add(index)
        if index in closed | ended:
            continue
        try:
            seen[index] += read(streams[index], action)
        except (Planted, LLMError, KeyboardInterrupt):
            ended.add(index)
    for index, (wanted, tokens) in enumerate(zip(requests, seen, strict=True)):
        expected = by_hand(wanted)
        assert tokens == (expected[: len(tokens)] if index in closed | ended else expected)
    assert decoder.met or not ended
    decoder.faults = {}
    until(lambda: not engine.table._busy and not engine.scheduler.active)
    check_cache(engine, decoder, streams, [streams[i] for i in closed | ended])


CALLS = ("step", "prefill", "fork", "truncate", "free")


class FailingCall:
    """Lets the n-th call of a decoder's methods fail, before or after its work."""

    def __init__(self, decoder: Any, error: type[Exception], at: int, *, after: bool) -> None:
        self.count, self.at = 0, at
        for name in CALLS:
            work = getattr(decoder, name)

            def call(*args: Any, work: Any = work, **kwargs: Any) -> Any:
                self.count += 1
                if self.count != self.at:
                    return work(*args, **kwargs)
                if after:
                    work(*args, **kwargs)
                raise error("planted")

            setattr(decoder, name, call)


def _workload(engine: Engine) -> tuple[list[list[int] | None], list[list[float]] | None]:
    """Run answers, read in three ways, next to scoring. Return None in place of what failed."""
    prompts = [[*range(20), 1], [*range(20), 2, 3], [5, 6], [7] * 30]
    items = [([*range(18), i], [[1], [2, 3], [4, 5, 6]]) for i in range(3)]
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(engine.score, items)
        streams = engine.submit_all([request(plain(prompt, 5)) for prompt in prompts])
        left = engine.submit(request(plain([9, 9], 9)))
        left.close()
        found: list[list[int] | None] = []
        for number, stream in enumerate(streams):
            try:
                read = asyncio.run(stream.aresult()) if number % 2 else stream.result()
                found.append([t for piece in read for t in piece.tokens])
            except (Planted, MemoryError, LLMError):
                found.append(None)
        try:
            scores: list[list[float]] | None = scoring.result(30)
        except (Planted, MemoryError, LLMError):
            scores = None
    return found, scores


def _decoders() -> dict[str, Callable[[], Any]]:
    return {
        "scripted": lambda: ScriptedDecoder(slots=6),
        "scripted in turn": lambda: ScriptedDecoder(slots=6, ahead=False),
        "reference": lambda: ReferenceDecoder(MODEL, max_slots=6),
    }


@pytest.mark.parametrize(
    "kind", ["scripted", "scripted in turn", pytest.param("reference", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [Planted, MemoryError])
def test_wherever_a_call_fails_decoder_and_record_agree(
    kind: str, after: bool, error: type[Exception]
) -> None:
    """The n-th call fails, for every n; what is delivered is right, and so is all that follows."""
    make = _decoders()[kind]
    plain_answers, plain_scores = _workload(Engine(make()))
    at = 0
    while True:
        at += 1
        decoder = make()
        engine = Engine(decoder)
        failing = FailingCall(decoder, error, at, after=after)
        answers, scores = _workload(engine)
        failing.at, calls = 0, failing.count
        for found, expected in zip(answers, plain_answers, strict=True):
            assert found in (None, expected)
        assert scores is None or scores == [pytest.approx(row, abs=1e-3) for row in plain_scores or ()]
        until(lambda e=engine: not e.scheduler.active and not e.scores.active and not e.runner.pending_steps)
        recorded = {slot: len(tokens) for slot, tokens in engine.table._tokens.items()}
        for slot in range(decoder.max_slots):
            assert slot in engine.table._unknown or decoder.length(slot) == recorded.get(slot, 0)
        assert _workload(engine)[0] == plain_answers
        engine.close()
        if calls < at:
            return


class Interrupted(Exception):
    """What Ctrl-C raises here, so that it does not end pytest."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `Interrupted` in the main thread once, as Ctrl-C would, by a signal."""

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("whole_answer", [False, True])
def test_an_interrupted_reader_costs_the_others_nothing(whole_answer: bool) -> None:
    """The thread that waits gets Ctrl-C: its own request stops, and the others go on."""
    decoder = ScriptedDecoder(pause=0.02)
    engine = Engine(decoder)
    streams = engine.submit_all([request(plain([i, 5, 9], 40, run_ahead=0)) for i in range(6)])
    with pytest.raises(Interrupted), interrupted_after(0.05):
        streams[0].result() if whole_answer else list(streams[0])
    assert streams[0].closed and len(streams[0].generated) < 40
    for i in range(1, 6):
        assert whole(streams[i].result())[0] == by_hand(plain([i, 5, 9], 40))
    check_cache(engine, decoder, streams, streams[:1])


def test_scoring_goes_on_after_an_interrupt() -> None:
    items = [([i] * 20, [[1], [2, 3]]) for i in range(6)]
    expected = Engine(ScriptedDecoder()).score(items)
    engine = Engine(ScriptedDecoder(pause=0.01))
    running = engine.submit(request(plain([1, 2], 30, run_ahead=0)))
    with pytest.raises(Interrupted), interrupted_after(0.03):
        engine.score(items)
    assert engine.score(items) == expected
    assert read(running, "all") == by_hand(plain([1, 2], 30))
    until(lambda: not engine.table._busy and not engine.scores.active)


def test_an_error_outside_of_a_pass_ends_everybody_and_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(ScriptedDecoder())
    streams = [engine.submit(request(plain([i], 20))) for i in range(3)]
    streams[0].next_piece()
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "settle", lambda: (_ for _ in ()).throw(Planted("device lost")))
        for stream in streams:
            with pytest.raises(Planted):
                stream.result()
    assert whole(engine.submit(request(plain([7], 6))).result())[0] == by_hand(plain([7], 6))


def test_a_slot_is_given_back_at_once() -> None:
    """It is released at once and not with the next step, which may be hours later."""
    engine = Engine(ScriptedDecoder(), cache_bytes=3000)
    left = engine.submit(request(plain([1] * 20, 30, run_ahead=0)))
    left.next_piece()
    left.close()
    until(lambda: not engine.table._busy and left.sequence.slot is None)
    streams = [engine.submit(request(plain([i] * 20, 9))) for i in range(5)]
    for stream in streams:
        stream.result()
    until(lambda: not engine.table._busy)
    assert engine.table.idle_bytes <= 3000


def test_a_short_prompt_is_not_kept_waiting_by_long_ones_that_keep_coming() -> None:
    decoder = ScriptedDecoder(pages=20000, slots=40)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    asked = [request(plain([i] * 3000, 1)) for i in range(2)]
    *late, short = engine.submit_all([*asked, request(plain([9] * 30, 1))])
    while not short.done:
        late.append(engine.submit(request(plain([len(late) + 10] * 3000, 1))))
    slot = next(s for s in range(40) if decoder.held[s][:1] == [9])
    assert min(i for i, (counts, _) in enumerate(decoder.steps) if slot in counts) <= 3
    for stream in late:
        stream.close()


def test_scoring_jobs_take_turns() -> None:
    engine = Engine(ScriptedDecoder(pages=20000, slots=40))
    order: list[str] = []

    def score(name: str, count: int) -> None:
        engine.score([([i % 40, i // 40] * 20, [[1]]) for i in range(count)])
        order.append(name)

    threads = [threading.Thread(target=score, args=args) for args in (("long", 1500), ("short", 2))]
    threads[0].start()
    while not engine.steps:
        time.sleep(0.001)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert order == ["short", "long"]


def test_a_loop_that_is_closed_meanwhile_is_no_error_of_the_engine() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    _call_soon(loop, loop.create_future())
