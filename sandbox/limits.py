"""What a run may use. Numbers only: how they are enforced is the supervisor's and the stage's affair."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sandbox.errors import SandboxLimitError

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one run, or of one call into a parser child.

    Attributes:
        wall_s: wall-clock seconds until the whole tree is killed.
        cpu_s: CPU seconds of the whole tree (user and system, dead children included).
        memory_bytes: memory of the whole tree: anonymous and shared pages, and what lies in its tmpfs.
            One process that asks for more gets MemoryError; a tree that uses more is killed.
        processes: processes and threads alive at once.
        output_bytes: stdout and stderr together; a run that prints more is killed.
        disk_bytes: size of the work folder (a tmpfs on tier 1).
        file_bytes: size of a single file.
        files: number of files, folders and links alive at once in the work folder.
        open_files: file descriptors a process may hold.

    Raises:
        SandboxLimitError: a limit is not a positive number, or too small for an interpreter to start in.
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
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SandboxLimitError(
                    f"Limits.{name}: expected at least {least}, found {getattr(self, name)!r}; "
                    "less than that and the interpreter itself cannot start."
                )


# Measured: CPython 3.11 with site-packages starts in 9 MiB of anonymous memory and 14 descriptors.
_LEAST = {"memory_bytes": 16 * MIB, "open_files": 16, "processes": 1, "disk_bytes": 64 * 1024}
