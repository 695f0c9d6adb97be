"""Work done ahead of its consumer: an iterator that runs in a thread of its own, a bounded weight in front.

Knows threads. Refuses to know what the items are. Whoever takes the items stays the only one that writes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
# A consumer that gives up waits so long for the item in the making, then leaves it: nothing is done with it.
_PATIENCE_S = 2.0


class Ahead(Generic[T]):
    """Iterates over `items` in a thread; use it as a context manager, which ends the thread.

    Args:
        items: run in the thread, up to the first exception; that is raised to the consumer in its place.
        weight: of one item. limit: the thread rests while items of this total weight wait.
    """

    def __init__(self, items: Iterator[T], weight: Callable[[T], int], limit: int) -> None:
        self._items, self._weight, self._limit = items, weight, limit
        self._changed = threading.Condition()
        self._waiting: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(_PATIENCE_S if exception[0] else None)

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item, weight = self._waiting.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._items:
                weight = self._weight(item)
                with self._changed:
                    self._waiting.append((item, weight))
                    self._held += weight
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._held < self._limit or self._stopped)
                    if self._stopped:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
