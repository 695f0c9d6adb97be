"""One writer at a time: a lock file that names its holder.

Knows files and process ids. The lock is the kernel's (`flock`), so that it falls with its process, however
that ends; the file's content only tells others who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from chains.retrieval.errors import StoreLocked
from chains.retrieval.schema import translated


class WriterLock:
    """The right to write to the store in `folder`: threads wait for each other, processes are refused."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "writer.lock"
        self._threads = threading.RLock()
        self._depth = 0
        self._handle: int | None = None

    @contextlib.contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Holds the lock; raises StoreLocked with the holder's pid where another process has it."""
        with self._threads:
            if self._depth == 0:
                self._acquire(purpose)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._release()

    def holder(self) -> dict[str, object]:
        """What the last holder wrote: pid, host, purpose, since; empty where nothing readable is there."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _acquire(self, purpose: str) -> None:
        with translated(self.path.parent):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            holder = self.holder()
            raise StoreLocked(
                f"expected the store {str(self.path.parent)!r} to be free for {purpose!r}, found process "
                f"{holder.get('pid', 'unknown')!r} on {holder.get('host', 'this machine')!r} writing to it "
                f"({holder.get('purpose', 'unknown')}); wait for it to end, then try again"
            ) from None
        record = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": time.time()}
        try:
            with translated(self.path.parent):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(record).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _release(self) -> None:
        if self._handle is not None:
            # The file stays: removing it would let a third process lock a file that is no longer there.
            os.close(self._handle)
            self._handle = None
