"""What a tree of processes uses, read from /proc without the help of what runs in it.

Knows process ids and numbers; decides nothing but which limit was passed. All figures are of the whole tree
below one process: in a PID namespace orphans stay below its init, on tier 2 below the stage (its subreaper).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from sandbox.limits import Limits

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Use:
    """One look at a tree.

    Attributes:
        memory_bytes: anonymous and shared resident pages of all processes (a page mapped twice counts twice),
            and what its tmpfs holds.
        cpu_s: user and system seconds of all, reaped children included.
        tasks: processes and threads.
        inodes: files, folders and links in its work folder (0 where it cannot be looked into).
        disk_bytes: what they hold.
    """

    memory_bytes: int = 0
    cpu_s: float = 0.0
    tasks: int = 0
    inodes: int = 0
    disk_bytes: int = 0


def tree(root: int) -> list[int]:
    """Ids of all processes below `root`, parents first, `root` left out."""
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
    """Whether a process has ended and only waits to be reaped (or is gone)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def look(root: int, *, skip: int, folder: str, size: int) -> Use:
    """What the tree below `root` uses now, in a mount namespace of its own.

    Args:
        root: id of the process that was started.
        skip: how many processes at the top are the sandbox's own and do not count as the program's.
        folder: path of the tmpfs as the processes see it.
        size: bytes that tmpfs was made with.
    """
    pids = tree(root)
    memory, tasks, cpu_s = _sum(pids)
    held, inodes = _tmpfs(pids, folder, size)
    return Use(
        memory_bytes=memory + held, cpu_s=cpu_s, tasks=max(0, tasks - skip), inodes=inodes, disk_bytes=held
    )


def look_on_host(root: int, *, work: str) -> Use:
    """What the tree below `root` uses now, its work folder being one of this machine."""
    memory, tasks, cpu_s = _sum(tree(root))
    disk_bytes, inodes = _below(work)
    return Use(memory_bytes=memory, cpu_s=cpu_s, tasks=tasks, inodes=inodes, disk_bytes=disk_bytes)


def _sum(pids: list[int]) -> tuple[int, int, float]:
    """(memory, tasks, CPU seconds) of the processes."""
    seen = [_status(pid) for pid in pids]
    ticks = sum(map(_ticks, pids))
    return sum(one[0] for one in seen), sum(one[1] for one in seen), ticks / _TICKS


def _below(work: str) -> tuple[int, int]:
    """(bytes on disk, entries) below a folder; links are not followed."""
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
    """(anonymous + shared resident bytes, threads) of one process; zeros where it is gone."""
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
    """(bytes, inodes) that the work folder and /dev/shm hold, through a process that sees them."""
    for pid in reversed(pids):
        try:
            work = os.statvfs(f"/proc/{pid}/root{folder}")
            shared = os.statvfs(f"/proc/{pid}/root/dev/shm")
        except OSError:
            continue
        if work.f_blocks * work.f_frsize > size + 65536:
            continue  # still on the way in: what it sees is this machine's own folder
        held = sum((one.f_blocks - one.f_bfree) * one.f_frsize for one in (work, shared))
        return held, sum(one.f_files - one.f_ffree for one in (work, shared))
    return 0, 0


def proportional(root: int) -> int:
    """Memory of the tree with shared pages divided among those that map them (slower; settles a doubt).

    Source: Pss_Anon and Pss_Shmem of /proc/PID/smaps_rollup, proc(5).
    """
    total = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(
                    int(line.split()[1]) * 1024 for line in file if line.startswith(("Pss_Anon", "Pss_Shmem"))
                )
        except (OSError, ValueError):
            total += _status(pid)[0]
    return total


def passed(use: Use, limits: Limits, root: int) -> str | None:
    """The first limit that `use` is past, by the name `RunResult.killed_by` gives it."""
    if use.tasks > limits.processes:  # first: what follows would look at each of a fork bomb's
        return "processes"
    if use.memory_bytes > limits.memory_bytes:
        held = use.memory_bytes - sum(_status(pid)[0] for pid in tree(root))
        if proportional(root) + max(0, held) > limits.memory_bytes:
            return "memory"
    if use.cpu_s > limits.cpu_s:
        return "cpu"
    # A tmpfs is full at its size and says so; a folder of this machine is not, hence the tolerance of one
    # block.
    too_much = use.inodes > limits.files or use.disk_bytes > limits.disk_bytes + 65536
    return "files" if too_much else None
