"""The one thread that forks children, and two guards against what a child would inherit from this process.

bubblewrap's parent-death signal follows the thread that started it (prctl(2), PR_SET_PDEATHSIG), so a child
started from a short-lived thread would die with that thread. The launcher lives as long as the process.
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
    """The thread that forks. It is a daemon, because it holds nothing that must be released."""

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


def run_on_launcher(job: Callable[[], T]) -> T:
    """Run `job` on the launcher thread; return its value or raise its exception."""
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


def restore_sigchld() -> None:
    """Restore SIGCHLD in the forked child of a process that ignores it, as some servers do.

    bubblewrap would inherit the ignored signal and never see its program end, so that each run would last
    until its time limit.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextlib.contextmanager
def standard_streams_occupied() -> Iterator[None]:
    """Keep descriptors 0 to 2 occupied while a child is started.

    In a process that has closed its standard streams, new descriptors would get these numbers, and the
    child's own pipes would replace them.
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
