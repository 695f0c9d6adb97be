"""The engine's leader: when it has its token, another waiting thread runs the steps."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from engine_samples import MODEL

from llms.decoders.reference import ReferenceDecoder
from llms.engine.engine import Engine


class _LateCondition(threading.Condition):
    """A condition whose waiter, once woken, is slow to come back."""

    def _acquire_restore(self, state: Any) -> None:
        time.sleep(0.3)
        super()._acquire_restore(state)  # type: ignore[misc]


class _Errand:
    """Something that waits for the engine, as a stream does."""

    def __init__(self, ready: threading.Condition) -> None:
        self.ready = ready
        self.satisfied = False

    def wake(self) -> None:
        """Nobody reads."""


def test_the_lead_passes_over_a_sleeper_that_has_what_it_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(ReferenceDecoder(MODEL, max_slots=16))
    lock = engine._lock
    leader, served, last = (
        _Errand(kind(lock)) for kind in (threading.Condition, _LateCondition, threading.Condition)
    )

    def step() -> None:
        """Serve `served`, who still sleeps when the leader leaves; `last` serves itself."""
        while engine.leadership.leader is leader and len(engine.leadership.sleepers) < 2:
            time.sleep(0.01)
        with lock:
            if engine.leadership.leader is leader:
                leader.satisfied = served.satisfied = True
                served.ready.notify_all()
            else:
                last.satisfied = True

    monkeypatch.setattr(engine, "_step", step)
    threads = []
    for errand in (leader, served, last):
        threads.append(threading.Thread(target=engine.drive, args=(errand,), daemon=True))
        threads[-1].start()
        while engine.leadership.leader is not leader and not leader.satisfied:
            time.sleep(0.01)
        time.sleep(0.05)
    for thread in threads:
        thread.join(10)
    assert last.satisfied, "nobody leads, everybody sleeps"
