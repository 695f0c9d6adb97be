"""Limits on what a run may use, and the kernel's resource limits that follow from them.

Only numbers: the stage sets the resource limits, the supervisor watches the rest.
"""

from __future__ import annotations

import functools
import os
import resource
from dataclasses import dataclass, fields

from sandbox.errors import SandboxLimitError

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on one run, or on one call into a parser child.

    >>> Limits(wall_s=2).wall_s
    2
    >>> Limits(memory_bytes=1)
    Traceback (most recent call last):
    sandbox.errors.SandboxLimitError: Limits.memory_bytes: expected at least 16777216, found 1; ...

    Attributes:
        wall_s: wall-clock seconds until the whole process tree is killed.
        cpu_s: CPU seconds of the whole tree (user and system, including children that have ended).
        memory_bytes: memory of the whole tree: its anonymous and shared pages and the content of its tmpfs.
            A process that asks for more gets MemoryError; a tree that uses more is killed.
        processes: number of processes and threads that may be alive at once.
        output_bytes: stdout and stderr together; a run that prints more is killed.
        disk_bytes: size of the work folder (a tmpfs on tier 1).
        file_bytes: size of a single file.
        files: number of files, folders and links that may exist at once in the work folder.
        open_files: number of file descriptors that one process may hold.

    Raises:
        SandboxLimitError: a limit is not a positive number, or is too small for an interpreter to start.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 512 * MIB
    processes: int = 64
    output_bytes: int = 1 * MIB
    disk_bytes: int = 64 * MIB
    file_bytes: int = 16 * MIB
    files: int = 1024
    open_files: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < float("inf"):
                raise SandboxLimitError(
                    f"Limits.{field.name}: expected a positive number, found {value!r}; "
                    "leave it out for the default."
                )
        for name, minimum in _MINIMUM.items():
            if getattr(self, name) < minimum:
                raise SandboxLimitError(
                    f"Limits.{name}: expected at least {minimum}, found {getattr(self, name)!r}; "
                    "the interpreter itself cannot start with less."
                )


# CPython 3.11 with site-packages was measured to start in 9 MiB of anonymous memory with 14 descriptors.
_MINIMUM = {"memory_bytes": 16 * MIB, "open_files": 16, "processes": 1, "disk_bytes": 64 * 1024}


def rlimits(limits: Limits, *, lasting: bool, own: int, exact: bool) -> list[tuple[int, int, int]]:
    """Return the program's resource limits as (resource, soft, hard), ready for `resource.setrlimit`.

    Args:
        limits: what the program may use.
        lasting: the program serves many calls. No RLIMIT_CPU is set, because its CPU time is watched call by
            call.
        own: number of the sandbox's own processes that the kernel counts together with the program's.
        exact: the kernel counts only this sandbox's processes. If False, RLIMIT_NPROC is raised by the number
            of processes that the user already has.
    """
    cpu = max(1, round(limits.cpu_s + 0.5))
    rules = [
        # RLIMIT_DATA bounds the private writable memory of one process; beyond it Python raises MemoryError.
        # The address space needs more room, since thread stacks and libraries reserve what they never touch.
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
    """Return True if RLIMIT_NPROC counts per user namespace (since Linux 5.14, commit 21d1c5e386bc)."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(char for char in minor if char.isdigit()) or 0)) >= (5, 14)


def _processes_of_user() -> int:
    """Return the number of processes that this user has now."""
    mine = os.getuid()
    count = 0
    for entry in os.scandir("/proc"):
        try:
            count += entry.name.isdigit() and entry.stat().st_uid == mine
        except OSError:
            continue
    return count
