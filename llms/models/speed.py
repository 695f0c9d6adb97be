"""An estimate of decoding speed from the rate at which this machine reads its memory.

One sequence is decoded at the rate at which the weights can be read, because each token reads all of them.

    >>> tokens_per_second(392_000_000, rate=40e9) > tokens_per_second(980_000_000, rate=40e9)
    True
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_SECONDS = 0.1
_BUFFER = 1 << 26  # bytes for each thread: more than the caches of a core hold
_REACHED = 0.9  # share of the read rate that the kernels reach on models of a billion weights
_OVERHEAD_S = 1e-3  # time of a token that does not depend on the weights


def read_rate() -> float:
    """Return the rate at which this process reads memory with all its cores, in bytes per second.

    The measurement takes 100 ms, and 64 MiB of memory for each core while it lasts.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    buffers = [np.ones(_BUFFER // 8, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.sum, buffers))  # starts the threads and maps the pages
        began = time.perf_counter()

        def read(buffer: np.ndarray) -> int:
            count = 0
            while time.perf_counter() - began < _SECONDS:
                buffer.sum()
                count += 1
            return count

        passes = sum(pool.map(read, buffers))
        return passes * _BUFFER / (time.perf_counter() - began)


def tokens_per_second(token_bytes: int, rate: float) -> float:
    """Return the expected decoding speed of one sequence.

    Args:
        token_bytes: Bytes of weights that a token reads.
        rate: The read rate of the memory in bytes per second.
    """
    return 1 / (token_bytes / (rate * _REACHED) + _OVERHEAD_S)
