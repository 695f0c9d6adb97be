"""Threads: how long OpenMP's spin while they wait for each other, and work that an event loop waits for.

PyTorch's operators on the CPU run in teams of OpenMP threads: libgomp in torch's CPU builds, libomp if
something was linked by clang. A program calls `configure_threads` before it imports torch. A library must not
set environment variables, so if nobody has called it, the first decoder on PyTorch's operators bounds the
spinning in another way (`bound_spinning`), which changes nothing else in the process. The native kernels
(`llms.decoders.cpu`) have threads of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

_SPINS = "2000"
"""About 40 us, which is longer than the gap between two operators of a step. libgomp's default of 300,000
keeps a core busy for milliseconds, and one token of the embedded model has some 200 places to wait at. On two
cores that other programs also used, 48 tokens took 9 s with this bound and more than 200 s without it."""

_POLICY = {"GOMP_SPINCOUNT": _SPINS, "OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "1"}
"""Each thread that calls libgomp gets its own team. If there are more threads than cores, libgomp ignores its
spin count and spins 100 turns, or 1,000 under the policy `active`. An agent computes in one thread and then
in another: on PyTorch's operators a short answer in the second thread took 91 ms without the policy and 41 ms
with it. Under that policy libomp would spin for ever; KMP_BLOCKTIME bounds it to 1 ms."""

_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""If one of these is set, the user has chosen a policy, and it stays."""

Result = TypeVar("Result")

_TEAM_HOLDER = "llm-openmp"
_lock = threading.Lock()
_too_late = False


def configure_threads() -> None:
    """Let idle OpenMP threads give up their core after about 40 us, for this process and its children.

    A program calls this once, before torch is imported. It sets environment variables, which is why importing
    `llms` does not do it. A policy that the user has set stays as it is.

        >>> from llms.threads import configure_threads
        >>> configure_threads()
        >>> import torch
    """
    global _too_late
    if not any(name in os.environ for name in _CHOSEN):
        for name, value in _POLICY.items():
            os.environ.setdefault(name, value)
        _too_late = "torch" in sys.modules


def bound_spinning() -> None:
    """Bound the spinning of a process in which nobody called `configure_threads` before torch was imported.

    If there are more threads than cores, libgomp spins 100 turns at most, and every thread that calls it has
    a team of its own. One idle daemon thread with a team is therefore enough. On two busy cores, 960 matrix
    products took 0.2 s and 0.4 s with it, and 14 s and 23 s without.
    """
    import torch

    with _lock:
        configured = any(name in os.environ for name in _CHOSEN) and not _too_late
        held = any(thread.name == _TEAM_HOLDER for thread in threading.enumerate())
        if configured or held or torch.get_num_threads() == 1:
            return
        formed = threading.Event()
        threading.Thread(target=_hold_a_team, args=(formed,), name=_TEAM_HOLDER, daemon=True).start()
        formed.wait()


def _hold_a_team(formed: threading.Event) -> None:
    import torch

    torch.zeros(2**20).add_(1)  # large enough that PyTorch runs it on a team
    formed.set()
    threading.Event().wait()


async def in_thread(work: Callable[..., Result], *args: Any) -> Result:
    """Return what `work` returns, which runs in a thread of its own with this task's context variables.

    The event loop's executor has few threads, which other work of the application may hold for long, such as
    the steps of chains. A new thread takes 0.1 ms to start and waits for nobody.

    >>> import asyncio
    >>> asyncio.run(in_thread(sum, [1, 2]))
    3
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(found: Result | None, error: BaseException | None) -> None:
        if future.done():  # The task was cancelled meanwhile.
            return
        if error is None:
            future.set_result(cast("Result", found))
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = context.run(work, *args), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # The loop has been closed.
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="llm-call", daemon=True).start()
    return await future
