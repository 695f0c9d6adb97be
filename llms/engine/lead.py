"""Who runs the engine's steps: whoever needs a token leads, the others sleep until they can read or lead.

Knows waiters, their conditions and one step to run; refuses to know requests and decoders. A helper thread
exists only while a caller that must not block (asyncio) waits for something.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Waiter(Protocol):
    """What can lead: a `Handle` or a `ScoreJob`."""

    ready: threading.Condition

    @property
    def satisfied(self) -> bool:
        """Whether it has what it waits for."""
        ...

    def wake(self) -> None:
        """Tell its caller where it is satisfied; the lock is held."""
        ...


class Lead:
    """Hands the lead from waiter to waiter.

    Args:
        lock: The engine's lock; every waiter's condition is one of this lock.
        step: Runs one step for everybody; called by the leader only, without the lock.
    """

    def __init__(self, lock: threading.Lock, step: Callable[[], None]) -> None:
        self._lock = lock
        self._step = step
        self.leader: Waiter | None = None
        self.sleepers: list[Waiter] = []
        self._pumped: list[Waiter] = []
        self._news = threading.Condition(lock)
        self._thread: threading.Thread | None = None

    def drive(self, waiter: Waiter) -> None:
        """Return once the waiter has something to read, running steps where nobody else does."""
        try:
            if self._leads(waiter):
                while not waiter.satisfied:
                    self._step()
        finally:
            self._leave(waiter)

    def alone(self, waiter: Waiter, work: Callable[[], None]) -> None:
        """Do some of the leader's work where nobody leads; whoever leads does it within a step."""
        with self._lock:
            if self.leader is not None:
                return
            self.leader = waiter
        try:
            work()
        finally:
            self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        """Give up the lead, if it is this waiter's."""
        with self._lock:
            if self.leader is waiter:
                self.leader = None
                self._hand_over()

    def _leads(self, waiter: Waiter) -> bool:
        """Sleep until the waiter is satisfied (False), or nobody leads and it takes the lead (True).

        Who was woken to lead and does not, because it was satisfied or interrupted meanwhile, wakes the next:
        else everybody would sleep.
        """
        with self._lock:
            try:
                while not waiter.satisfied and self.leader is not None:
                    self.sleepers.append(waiter)
                    try:
                        waiter.ready.wait()
                    finally:
                        self.sleepers.remove(waiter)
                if waiter.satisfied:
                    return False
                self.leader = waiter
                return True
            finally:
                self._hand_over()

    def _hand_over(self) -> None:
        """Wake one sleeper that has work left where nobody leads; the lock is held."""
        if self.leader is None:
            heir = next((sleeper for sleeper in self.sleepers if not sleeper.satisfied), None)
            if heir is not None:
                heir.ready.notify_all()

    def pump(self, waiter: Waiter) -> None:
        """Have the helper thread drive for a caller that must not block."""
        with self._lock:
            self._pumped.append(waiter)
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump_loop, name="llm-engine", daemon=True)
                self._thread.start()

    def _pump_loop(self) -> None:
        """Drive every pumped waiter; end after a quiet moment."""
        while True:
            with self._lock:
                for waiter in self._pumped:
                    waiter.wake()
                self._pumped = [waiter for waiter in self._pumped if not waiter.satisfied]
                if not self._pumped and not self._news.wait_for(lambda: bool(self._pumped), timeout=0.2):
                    self._thread = None
                    return
                waiter = self._pumped[0]
            self.drive(waiter)
