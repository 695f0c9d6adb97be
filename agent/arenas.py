"""How many heaps glibc keeps: a chat's memory stays where a few threads leave it.

Each turn of a graph runs in threads of its own, and glibc gives each new one a heap of its own, whose freed
workspaces are no other's to use: over five conversations they grew from 13 to 118 MiB, and to 31 MiB with two
heaps. Knows one call of one C library; does nothing where that is not there.
"""

from __future__ import annotations

import os

_M_ARENA_MAX = -8
"""glibc's malloc.h."""
_HEAPS = 2


def keep_few_heaps() -> bool:
    """Let new threads share two heaps, unless MALLOC_ARENA_MAX says otherwise; tells whether it did."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt is not None and mallopt(_M_ARENA_MAX, _HEAPS) == 1)
