"""Attacks on memory, disk, time and output. Data for tests/test_sandbox_attacks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sandbox_attacks_host import LIMITS, Attack, fails

from sandbox import RunResult

_SHORT = replace(LIMITS, wall_s=1.5)


def _ended(*statuses: str) -> Callable[[RunResult], str | None]:
    """Return a check that the run ended with one of these statuses and stayed near its limits."""

    def check(result: RunResult) -> str | None:
        if result.status not in statuses:
            return f"expected a status of {statuses}, found {result.status!r}: {result.stderr[-300:]}"
        if result.peak_bytes > 3 * LIMITS.memory_bytes:
            return f"it held {result.peak_bytes >> 20} MiB"
        return None

    return check


def _output_bound(result: RunResult) -> str | None:
    size = len(result.stdout.encode()) + len(result.stderr.encode())
    return None if size <= LIMITS.output_bytes and result.truncated else f"{size} bytes of output"


def _files_bound(result: RunResult) -> str | None:
    size = sum(map(len, result.files.values()))
    return (
        None if size <= LIMITS.disk_bytes and len(result.files) <= LIMITS.files else f"{size} bytes of files"
    )


RESOURCES = [
    Attack(
        name="bomb with forks",
        body="while True: os.fork()",
        real=False,
        check=_ended("ok", "error", "processes", "timeout", "memory", "killed"),
    ),
    Attack(
        name="bomb with forks that leave the session",
        body="""
while True:
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
""",
        real=False,
        check=_ended("ok", "error", "processes", "timeout", "memory", "killed"),
    ),
    Attack(
        name="bomb with threads",
        body="from threading import Thread\nwhile True: Thread(target=time.sleep, args=(9,)).start()",
        real=False,
        check=_ended("ok", "error", "processes", "memory", "timeout"),
    ),
    Attack(
        name="bomb with programs",
        body="import subprocess\nwhile True: subprocess.Popen([sys.executable, '-c', 'while 1: pass'])",
        real=False,
        check=_ended("ok", "error", "processes", "timeout", "memory"),
    ),
    Attack(
        name="fill the memory of one process",
        body="held = []\nwhile True: held.append(bytearray(1 << 20))",
        real=False,
        check=_ended("ok", "memory", "error"),
    ),
    Attack(
        name="fill memory with many small processes",
        body="""
for _ in range(12):
    if os.fork() == 0:
        held = bytearray(40 << 20)
        time.sleep(20)
time.sleep(20)
""",
        real=False,
        check=_ended("memory"),
    ),
    Attack(
        name="fill memory that is shared",
        body="""
import mmap
held = [mmap.mmap(-1, 1 << 20) for _ in range(4000)]
for one in held: one.write(b'x' * (1 << 20))
reached()
""",
        real=False,
        check=_ended("ok", "memory", "error"),
    ),
    Attack(name="hide memory in a memfd", body="os.memfd_create('x'); reached()"),
    fails("hide memory in a System V segment", "syscall(29, 0, 1 << 20, 0o1600)"),
    fails("hide memory in a message queue", "syscall(240, b'canary', 0o102, 0o600, 0)"),
    Attack(
        name="hide memory in pipes",
        body="""
import fcntl
held, size = [], 0
for _ in range(100):
    ours, theirs = os.pipe()
    try: fcntl.fcntl(theirs, 1031, 1 << 20)
    except OSError: pass
    os.set_blocking(theirs, False)
    try:
        while True: size += os.write(theirs, b'x' * 65536)
    except BlockingIOError: pass
    held.append((ours, theirs))
if size > 80 << 20: reached(size)
""",
        real=False,
    ),
    Attack(
        name="fill the disk",
        body="for i in range(100): open(f'f{i}', 'wb').write(b'x' * (1 << 20))\nreached()",
        real=False,
        check=_files_bound,
    ),
    Attack(
        name="fill the disk with one file",
        body="open('f', 'wb').truncate(1 << 40); reached()",
        check=_files_bound,
    ),
    Attack(
        name="fill the shared memory folder",
        body="for i in range(100): open(f'/dev/shm/f{i}', 'wb').write(b'x' * (1 << 20))\nreached()",
        real=False,
    ),
    Attack(
        name="use up inodes",
        body="for i in range(10**6): open(str(i), 'w').close()",
        real=False,
        check=_ended("files"),
    ),
    Attack(
        name="nest folders too deep to remove",
        body="for i in range(280):\n    os.mkdir('d' * 60)\n    os.chdir('d' * 60)\nos.mkdir('locked', 0)",
        real=False,
        check=_files_bound,
    ),
    Attack(
        name="make millions of descriptors",
        body="for _ in range(10**5): os.open('/dev/null', 0)\nreached()",
        real=False,
    ),
    Attack(
        name="flood the output",
        body="while True: os.write(1, b'x' * 65536)",
        real=False,
        check=_output_bound,
    ),
    Attack(
        name="flood the error output",
        body="while True: os.write(2, b'x' * 65536)",
        real=False,
        check=_output_bound,
    ),
    Attack(
        name="spin",
        body="while True: pass",
        real=False,
        check=_ended("timeout"),
        limits=replace(LIMITS, cpu_s=1),
    ),
    Attack(
        name="spin in several processes",
        body="for _ in range(3): os.fork()\nwhile True: pass",
        real=False,
        check=_ended("timeout"),
        limits=replace(LIMITS, cpu_s=1),
    ),
    Attack(
        name="spin and ignore the CPU signal",
        body="import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass",
        real=False,
        check=_ended("timeout", "killed"),
        limits=replace(LIMITS, cpu_s=1),
    ),
    Attack(
        name="sleep for ever", body="time.sleep(10**6)", real=False, check=_ended("timeout"), limits=_SHORT
    ),
    Attack(
        name="sleep and ignore the end of the standard streams",
        body="""
import signal
for n in (1, 2, 13, 15): signal.signal(n, signal.SIG_IGN)
os.close(1); os.close(2)
time.sleep(9)
""",
        real=False,
        check=_ended("timeout"),
        limits=_SHORT,
    ),
    Attack(name="lock memory", body="_libc.mlockall(3) == 0 and reached()", real=False),
]
