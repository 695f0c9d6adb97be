"""Errors and Ctrl-C in the middle of a step: no reader waits for ever or reads wrong text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_decoder import ScriptedDecoder
from scripted_requests import by_hand, check_cache, limit_steps, plain, request, whole
from test_llms_engine_ahead import ACTIONS, asked

from llms.engine.engine import Engine
from llms.engine.request import Stream, _call_soon
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
    """Read the tokens of one piece, or of all; an interrupted reader reads on."""
    found: list[int] = []
    while True:
        try:
            piece = stream.next_piece()
        except KeyboardInterrupt:
            continue
        if piece is None:
            return found
        found += piece.tokens
        if action == "read":
            return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(asked(), min_size=1, max_size=6),
    st.lists(ACTIONS, max_size=20),
    FAULTS,
    st.booleans(),
    st.sampled_from([500, 60]),
)
def test_every_answer_is_right_or_an_error(
    requests: list[dict[str, Any]],
    schedule: list[tuple[str, int]],
    faults: dict[int, tuple[type[BaseException], bool]],
    ahead: bool,
    pages: int,
) -> None:
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
        except (Planted, LLMError):
            ended.add(index)
    for index, (wanted, tokens) in enumerate(zip(requests, seen, strict=True)):
        expected = by_hand(wanted)
        assert tokens == (expected[: len(tokens)] if index in closed | ended else expected)
    assert decoder.met or not ended
    decoder.faults = {}
    assert not engine.table._busy and not engine.scheduler.active
    check_cache(engine, decoder, streams, [streams[i] for i in closed | ended])


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_reader_costs_the_others_nothing(after: bool) -> None:
    """The thread that leads gets Ctrl-C: its own request stops, the others' tokens are computed again."""
    decoder = Faulty({at: (KeyboardInterrupt, after) for at in (3, 6, 7)})
    engine = Engine(decoder)
    streams = [engine.submit(request(plain([i, 5, 9], 12, run_ahead=0))) for i in range(6)]
    for stream in streams[:3]:
        with pytest.raises(KeyboardInterrupt):
            stream.result()
        assert not engine.table._busy and engine.leadership.leader is None
    for i in (3, 4, 5):
        assert whole(streams[i].result())[0] == by_hand(plain([i, 5, 9], 12))
    check_cache(engine, decoder, streams, streams[:3])


def test_scoring_goes_on_after_an_interrupt() -> None:
    items = [([i] * 20, [[1], [2, 3]]) for i in range(6)]
    expected = Engine(ScriptedDecoder()).score(items)
    decoder = Faulty({2: (KeyboardInterrupt, True), 5: (KeyboardInterrupt, True)})
    engine = Engine(decoder)
    running = engine.submit(request(plain([1, 2], 30, run_ahead=0)))
    found: list[Any] = []
    scoring = threading.Thread(target=lambda: found.extend(_stubborn(engine, items)))
    scoring.start()
    tokens = read(running, "all")
    scoring.join(30)
    assert found == expected and tokens == by_hand(plain([1, 2], 30))


def _stubborn(engine: Engine, items: Any) -> list[list[float]]:
    while True:
        try:
            return engine.score(items)
        except KeyboardInterrupt:
            continue


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
    assert not engine.table._busy and left.slot is None
    streams = [engine.submit(request(plain([i] * 20, 9))) for i in range(5)]
    for stream in streams:
        stream.result()
    assert not engine.table._busy and engine.table.idle_bytes <= 3000


def test_a_short_prompt_is_not_kept_waiting_by_long_ones_that_keep_coming() -> None:
    decoder = ScriptedDecoder(pages=20000, slots=40)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    late = [engine.submit(request(plain([i] * 3000, 1, run_ahead=0))) for i in range(2)]
    short = engine.submit(request(plain([9] * 30, 1, run_ahead=0)))
    began = engine.steps
    while short.next_piece() is None or not short.done:
        late.append(engine.submit(request(plain([len(late) + 10] * 3000, 1, run_ahead=0))))
    assert engine.steps - began <= 4
    for stream in late:
        stream.result()
    assert all(stream.done for stream in late)


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
    _call_soon(loop, lambda: None)
