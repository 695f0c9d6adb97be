"""The one thread that forks, and what a forked child must not inherit from this process.

bubblewrap's parent-death signal follows the thread that started it (prctl(2), PR_SET_PDEATHSIG): a child
started from a short-lived thread would die with that thread. This one lives as long as the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
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


def reapable() -> None:
    """In the forked child of a process that ignores SIGCHLD, as some servers do: bubblewrap inherits that.

    It would then never see its program end, and each run last until its time is up.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextlib.contextmanager
def streams_taken() -> Iterator[None]:
    """Keep descriptors 0 to 2 taken: in a process that closed its own, those for the child would be lost.

    The child gets its pipes at these numbers, over whatever else was meant for it there.
    """
    taken: list[int] = []
    try:
        while (lowest := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
            taken.append(lowest)
        os.close(lowest)
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
