"""The right to write to a store: one process at a time, whose threads wait for each other."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from chains.retrieval.database import MEMORY, store_errors
from chains.retrieval.errors import StoreGone, StoreLocked


class _ProcessLock:
    """What the stores of one process share about one lock file."""

    def __init__(self) -> None:
        self.threads = threading.RLock()
        self.depth = 0
        self.handle: int | None = None


_shared: weakref.WeakValueDictionary[tuple[int, str], _ProcessLock] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


class WriterLock:
    """The right to write to the store in `folder`. Threads wait for each other; processes are refused.

    All stores that one process opens in a folder share one lock, so they wait for each other, too. The lock
    is the kernel's (`flock`), so it is released when its process ends, however that happens. The lock file's
    content only tells other processes who holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "writer.lock"
        # A forked process must not take its parent's lock for its own. In memory every store is alone.
        place = str(id(self)) if folder == MEMORY else os.path.realpath(self.path)
        with _sharing:
            self._lock = _shared.setdefault((os.getpid(), place), _ProcessLock())

    @contextlib.contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Hold the lock; raise StoreLocked with the holder's pid if another process has it.

        Raises StoreGone if the store's folder was deleted.
        """
        lock = self._lock
        with lock.threads:
            if lock.depth == 0 and self.path.parent != MEMORY:
                self._acquire(purpose)
            lock.depth += 1
            try:
                yield
            finally:
                lock.depth -= 1
                if lock.depth == 0:
                    self._release()

    def holder(self) -> dict[str, object]:
        """Return what the last holder wrote (pid, host, purpose, since), or {} if it cannot be read."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _acquire(self, purpose: str) -> None:
        with store_errors(self.path.parent), self._gone():
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreLocked(
                f"expected the store {str(self.path.parent)!r} to be free for {purpose!r}, found "
                f"{self._describe_holder()} writing to it; wait for it to end, then try again"
            ) from None
        record = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": time.time()}
        try:
            with store_errors(self.path.parent):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(record).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        self._lock.handle = handle

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise gone(self.path.parent) from error

    def _describe_holder(self) -> str:
        # A holder has the lock some moments before it has written who it is.
        for _ in range(20):
            if found := self.holder():
                return f"process {found.get('pid')!r} on {found.get('host')!r} ({found.get('purpose')})"
            time.sleep(0.01)
        return "another process"

    def _release(self) -> None:
        if self._lock.handle is not None:
            # The file stays. If it were deleted, a third process could lock a file that is no longer there.
            os.close(self._lock.handle)
            self._lock.handle = None


def gone(folder: Path) -> StoreGone:
    """Return the error for a store whose folder was deleted or replaced while it was open."""
    return StoreGone(
        f"expected the store's folder at {str(folder)!r}, found that it was deleted or replaced while the "
        "store was open; what was written since is lost: open the store again and ingest again"
    )
