"""How long OpenMP's threads spin while they wait for each other.

Knows the variables of libgomp, which torch's CPU builds bring, and of LLVM's libomp, which clang links to.
They have to be set before torch is loaded, so `import llms` and the command line do it first of all; whoever
set a policy of their own keeps it. An app that loaded torch before us gets a bound by another way, a shorter
one, when the first decoder is built.
"""

from __future__ import annotations

import os
import sys
import threading

_SPINS = "2000"
"""About 40 us, longer than the gap between two operators of a step. libgomp's own 300,000 keep a core busy
for milliseconds, and a token has some 200 places to wait at: on two cores that other programs wanted too, 48
tokens took 9 s with this bound, and were not there after 200 s without it."""

_BOUNDS = {"GOMP_SPINCOUNT": _SPINS, "OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "1"}
"""Each thread that calls libgomp has a team of its own, and with more threads than cores libgomp waits 100
turns instead of the number that it was given, unless the policy is `active`: then 1,000. An agent computes in
one thread and then in another: a short answer in the second took 91 ms instead of 52, and 41 with the policy
(before the lean decoder's machine code had threads of its own; PyTorch's operators have libgomp's).
libomp would wait for ever under that policy; 1 is milliseconds."""

_CROWD = "llm-openmp"
_lock = threading.Lock()
_late = False


def bound_spinning() -> None:
    """Let a waiting thread give its core away after about 40 us."""
    global _late
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        for name, value in _BOUNDS.items():
            os.environ.setdefault(name, value)
        _late = "torch" in sys.modules


def bound_spinning_late() -> None:
    """Do the same where torch was loaded first and has read no bound; nothing where that is not so.

    With more threads than cores libgomp spins 100 turns at most, and every thread that calls it has a team
    of its own: one idle thread with a team is enough. On two busy cores 960 products took 14 s and 23 s, and
    0.2 s and 0.4 s with it.
    """
    import torch

    with _lock:
        here = any(thread.name == _CROWD for thread in threading.enumerate())
        if not _late or here or torch.get_num_threads() == 1:
            return
        formed = threading.Event()
        threading.Thread(target=_idle, args=(formed,), name=_CROWD, daemon=True).start()
        formed.wait()


def _idle(formed: threading.Event) -> None:
    import torch

    torch.zeros(2**20).add_(1)  # large enough to be shared out among a team
    formed.set()
    threading.Event().wait()
