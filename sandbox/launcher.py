"""The one thread that forks.

bubblewrap's parent-death signal follows the thread that started it (prctl(2), PR_SET_PDEATHSIG): a child
started from a short-lived thread would die with that thread. This one lives as long as the process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _Launcher(threading.Thread):
    """The thread that forks. Daemonic: it holds nothing that must be given back."""

    def __init__(self) -> None:
        super().__init__(name="sandbox-launcher", daemon=True)
        self.jobs: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            job, reply = self.jobs.get()
            try:
                reply.put((job(), None))
            except BaseException as error:
                reply.put((None, error))


_launcher: _Launcher | None = None
_launcher_lock = threading.Lock()


def on_launcher(job: Callable[[], T]) -> T:
    """Run `job` on that thread and return what it returns, or raise what it raises."""
    global _launcher
    with _launcher_lock:
        if _launcher is None or not _launcher.is_alive():
            _launcher = _Launcher()
    reply: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    _launcher.jobs.put((job, reply))
    value, error = reply.get()
    if error is not None:
        raise error
    made: T = value
    return made
