"""How long OpenMP's threads spin while they wait for each other.

Knows one variable of libgomp, which torch's CPU builds bring. It has to be set before torch is loaded, so
`import llms` and the command line do it first of all; whoever set a policy of their own keeps it.
"""

from __future__ import annotations

import os

_SPINS = "2000"
"""About 40 us, longer than the gap between two operators of a step. libgomp's own 300,000 keep a core busy
for milliseconds, and a token has some 200 places to wait at: on two cores that other programs wanted too, 48
tokens took 9 s with this bound, and were not there after 200 s without it."""


def bound_spinning() -> None:
    """Let a waiting thread give its core away after about 40 us."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
