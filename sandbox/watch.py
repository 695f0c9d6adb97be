"""What a tree of processes uses, read from /proc without help from the processes themselves.

All figures are sums over the tree below one process. Orphans stay in the tree: below the init of their PID
namespace on tier 1, below the stage, which is their subreaper, on tier 2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from sandbox.limits import Limits

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class ResourceUsage:
    """What a tree uses at one moment.

    Attributes:
        memory_bytes: anonymous and shared resident pages of all processes (a page that two processes map
            counts twice), and the content of the tmpfs.
        cpu_s: user and system seconds of all processes, including children that were reaped.
        tasks: number of processes and threads.
        inodes: number of files, folders and links in the work folder; 0 if it cannot be read.
        disk_bytes: size of their content.
    """

    memory_bytes: int = 0
    cpu_s: float = 0.0
    tasks: int = 0
    inodes: int = 0
    disk_bytes: int = 0


def descendants(root: int) -> list[int]:
    """Return the ids of all processes below `root`, parents first, without `root`."""
    found, queue = [], [root]
    while queue:
        below = _children(queue.pop())
        found += below
        queue += below
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children += map(int, file.read().split())
    except OSError:
        pass
    return children


def is_zombie(pid: int) -> bool:
    """Return True if a process has ended, whether or not it was reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def measure(root: int, *, skip: int, folder: str, size: int) -> ResourceUsage:
    """Return what the tree below `root` uses now, inside its own mount namespace.

    Args:
        root: id of the process that was started.
        skip: number of processes at the top that are the sandbox's own and not the program's.
        folder: path of the tmpfs as the processes see it.
        size: size of that tmpfs in bytes.
    """
    pids = descendants(root)
    memory, tasks, cpu_s = _sum(pids)
    held, inodes = _tmpfs(pids, folder, size)
    return ResourceUsage(
        memory_bytes=memory + held, cpu_s=cpu_s, tasks=max(0, tasks - skip), inodes=inodes, disk_bytes=held
    )


def measure_on_host(root: int, *, work: str) -> ResourceUsage:
    """Return what the tree below `root` uses now, with a work folder on this machine."""
    memory, tasks, cpu_s = _sum(descendants(root))
    disk_bytes, inodes = _below(work)
    return ResourceUsage(memory_bytes=memory, cpu_s=cpu_s, tasks=tasks, inodes=inodes, disk_bytes=disk_bytes)


def _sum(pids: list[int]) -> tuple[int, int, float]:
    """Return (memory, tasks, CPU seconds) of the processes."""
    seen = [_status(pid) for pid in pids]
    ticks = sum(map(_ticks, pids))
    return sum(one[0] for one in seen), sum(one[1] for one in seen), ticks / _TICKS


def _below(work: str) -> tuple[int, int]:
    """Return (bytes on disk, entries) below a folder, without following links."""
    size = count = 0
    waiting = [work]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue
    return size, count


def _status(pid: int) -> tuple[int, int]:
    """Return (anonymous + shared resident bytes, threads) of one process; zeros if it is gone."""
    memory = tasks = 0
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("RssAnon:", "RssShmem:")):
                    memory += int(line.split()[1]) * 1024
                elif line.startswith("Threads:"):
                    tasks = int(line.split()[1])
    except (OSError, ValueError):
        pass
    return memory, tasks


def _ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    except (OSError, ValueError, IndexError):
        return 0


def _tmpfs(pids: list[int], folder: str, size: int) -> tuple[int, int]:
    """Return (bytes, inodes) of the work folder and /dev/shm, read through a process that sees them."""
    for pid in reversed(pids):
        try:
            work = os.statvfs(f"/proc/{pid}/root{folder}")
            shared = os.statvfs(f"/proc/{pid}/root/dev/shm")
        except OSError:
            continue
        if work.f_blocks * work.f_frsize > size + 65536:
            continue  # this process has not entered its namespace yet and sees the machine's own folder
        held = sum((one.f_blocks - one.f_bfree) * one.f_frsize for one in (work, shared))
        return held, sum(one.f_files - one.f_ffree for one in (work, shared))
    return 0, 0


def proportional_memory(root: int) -> int:
    """Return the tree's memory in bytes, with each shared page divided among the processes that map it.

    It sums Pss_Anon and Pss_Shmem of /proc/PID/smaps_rollup (proc(5)). That is slower than `measure`, which
    counts a shared page for every process, so it only confirms that a limit was exceeded.
    """
    total = 0
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(
                    int(line.split()[1]) * 1024 for line in file if line.startswith(("Pss_Anon", "Pss_Shmem"))
                )
        except (OSError, ValueError):
            total += _status(pid)[0]
    return total


def exceeded_limit(usage: ResourceUsage, limits: Limits, root: int) -> str | None:
    """Return the first limit that the usage exceeds, named as in `RunResult.killed_by`, or None."""
    # Processes come first: the check of memory reads every process, and a fork bomb has many.
    if usage.tasks > limits.processes:
        return "processes"
    if usage.memory_bytes > limits.memory_bytes:
        held = usage.memory_bytes - sum(_status(pid)[0] for pid in descendants(root))
        if proportional_memory(root) + max(0, held) > limits.memory_bytes:
            return "memory"
    if usage.cpu_s > limits.cpu_s:
        return "cpu"
    # A full tmpfs refuses to grow beyond its size. A folder of this machine does not, so one block is
    # tolerated.
    too_much = usage.inodes > limits.files or usage.disk_bytes > limits.disk_bytes + 65536
    return "files" if too_much else None
