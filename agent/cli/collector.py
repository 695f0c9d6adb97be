"""Python's collector of cyclic garbage while the program starts.

Knows two settings of `gc`. Imports and loading make some hundred thousand objects that stay, and the
collector walks all of them again whenever a quarter more has come, and once more when the program ends: 1.0 s
of the 5.4 s of processor time of a first answer. So it waits while the program starts, and then leaves alone
for good what is there by then. Refuses to switch the collector off: what waits for it is bounded at any time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENT = (50_000, 20, 100)
"""Thresholds while the program starts (Python's own: 700, 10, 10): at most 50,000 new objects wait."""

_usual: tuple[int, int, int] | None = None


@contextmanager
def patient_collector() -> Iterator[None]:
    """Let the collector wait until `started` or the end of the block."""
    global _usual
    _usual = gc.get_threshold()
    gc.set_threshold(*_PATIENT)
    try:
        yield
    finally:
        _settle()


def started() -> None:
    """What is there now stays: never look at it again, and collect as usual from here on."""
    if _settle():
        gc.freeze()


def _settle() -> bool:
    global _usual
    before, _usual = _usual, None
    if before is not None:
        gc.set_threshold(*before)
    return before is not None
