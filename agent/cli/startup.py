"""Settings of the whole process that only the program makes: the garbage collector and the C library's heaps.

An application that imports these packages keeps its own.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENT = (50_000, 20, 100)
"""Collector thresholds during start-up (Python's own are 700, 10, 10): at most 50,000 new objects wait."""

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""

_HEAPS = 2

_thresholds: tuple[int, int, int] | None = None


@contextmanager
def patient_collector() -> Iterator[None]:
    """Collect garbage rarely until `started` is called or the block ends.

    Imports and loading make some hundred thousand objects that stay. The collector walks all of them again
    whenever their number grows by a quarter, and once more at exit, which took 1.0 s of the 5.4 s of
    processor time of a first answer. The collector is never switched off.
    """
    global _thresholds
    _thresholds = gc.get_threshold()
    gc.set_threshold(*_PATIENT)
    try:
        yield
    finally:
        _restore_thresholds()


def started() -> None:
    """Exempt the objects that exist now from collection, and collect as usual from here on."""
    if _restore_thresholds():
        gc.freeze()


def _restore_thresholds() -> bool:
    global _thresholds
    before, _thresholds = _thresholds, None
    if before is not None:
        gc.set_threshold(*before)
    return before is not None


def keep_few_heaps() -> bool:
    """Limit glibc to two heaps for new threads, unless MALLOC_ARENA_MAX is set; return whether it was done.

    Each turn of a graph runs in new threads, and glibc gives each thread a heap whose freed memory no other
    thread can use. Over five conversations those heaps grew from 13 to 118 MiB; with two heaps, to 31 MiB.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt is not None and mallopt(_M_ARENA_MAX, _HEAPS) == 1)
