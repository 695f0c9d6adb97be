"""The kernel's resource limits of one program, out of `Limits`. Numbers only; the stage sets them."""

from __future__ import annotations

import functools
import os
import resource

from sandbox.limits import MIB, Limits


def rlimits(limits: Limits, *, lasting: bool, own: int, exact: bool) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) of the program.

    Args:
        limits: what it may use.
        lasting: it serves many calls; its CPU time is watched call by call instead.
        own: processes of the sandbox that the kernel counts with the program's.
        exact: the kernel counts nobody else's with them.
    """
    cpu = max(1, round(limits.cpu_s + 0.5))
    rules = [
        # Private writable memory of one process: beyond it, MemoryError. Address space is wider: thread
        # stacks and libraries reserve what they never touch.
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_AS, 2 * limits.memory_bytes + 1024 * MIB),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 64 * 1024),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
        (resource.RLIMIT_STACK, 8 * MIB),
        (resource.RLIMIT_NPROC, limits.processes + own + (0 if exact else _processes_of_user())),
    ]
    clock = [] if lasting else [(resource.RLIMIT_CPU, cpu, cpu + 1)]
    return [(kind, value, value) for kind, value in rules] + clock


@functools.cache
def counts_by_namespace() -> bool:
    """Whether RLIMIT_NPROC counts per user namespace (Linux 5.14, commit 21d1c5e386bc)."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(char for char in minor if char.isdigit()) or 0)) >= (5, 14)


def _processes_of_user() -> int:
    """How many processes this user has now: where the kernel counts them all, the limit lies above that."""
    mine = os.getuid()
    count = 0
    for entry in os.scandir("/proc"):
        try:
            count += entry.name.isdigit() and entry.stat().st_uid == mine
        except OSError:
            continue
    return count
