"""Attacks on memory, disk, time, output and the kernel's rarer calls: data for test_sandbox_attacks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sandbox_attacks_host import LIMITS, Attack

from sandbox import RunResult, printable

_SHORT = replace(LIMITS, wall_s=1.5)


def _ended(*statuses: str) -> Callable[[RunResult], str | None]:
    """The run must have ended with one of these, and nothing it held may be far past the limit."""

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


def _no_escapes(result: RunResult) -> str | None:
    shown = printable(result.stdout + result.stderr)
    bad = [char for char in shown if not char.isprintable() and char not in "\n\t"]
    return f"control characters on screen: {bad!r}" if bad else None


def _names_inside(result: RunResult) -> str | None:
    out = [name for name in result.files if name.startswith("/") or ".." in name]
    return f"names that leave the folder: {out}" if out else None


def _fails(name: str, body: str, *, tiers: tuple[int, ...] = (1, 2)) -> Attack:
    """A call that must be refused; harmless to leave untried outside."""
    return Attack(name=name, body=body + "\nreached()", real=False, tiers=tiers)


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
    _fails("hide memory in a System V segment", "syscall(29, 0, 1 << 20, 0o1600)"),
    _fails("hide memory in a message queue", "syscall(240, b'canary', 0o102, 0o600, 0)"),
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

KERNEL = [
    _fails("mount a file system", "syscall(165, b'tmpfs', b'/tmp', b'tmpfs', 0, None)"),
    _fails("remount the root for writing", "syscall(165, None, b'/', None, 0x20 | 0x1000, None)"),
    _fails("take away what covers /proc/sys", "syscall(166, b'/proc/sys', 2)"),
    _fails("open a mount by the newer calls", "syscall(430, b'tmpfs', 0)"),
    _fails("make a user namespace", "syscall(272, 0x10000000)"),
    _fails("make a user namespace by clone", "syscall(56, 0x10000011, 0, 0, 0, 0) or os._exit(0)"),
    _fails(
        "make a user namespace by clone3",
        "syscall(435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, *[0] * 6), 88) or os._exit(0)",
    ),
    _fails("join a namespace", "syscall(308, os.open('/proc/self/ns/net', 0), 0)"),
    _fails("move the root", "syscall(155, b'.', b'.')"),
    _fails("use bpf", "syscall(321, 0, struct.pack('IIIII', 2, 4, 4, 1, 0), 20)"),
    _fails("use io_uring", "syscall(425, 4, ctypes.create_string_buffer(120))"),
    _fails("use userfaultfd", "syscall(323, 1)"),
    _fails("use performance counters", "syscall(298, struct.pack('II', 1, 112) + bytes(104), 0, -1, -1, 0)"),
    _fails("load a kernel module", "syscall(313, os.open('/dev/null', 0), b'', 0)"),
    _fails("load another kernel", "syscall(320, -1, -1, 0, b'', 4)"),
    _fails("reboot", "syscall(169, 0xfee1dead, 672274793, 0, 0)"),
    _fails("set the clock", "time.clock_settime(0, time.time())"),
    _fails("set the host's name", "syscall(170, b'canary', 6)"),
    _fails("use ports of the machine", "syscall(172, 3)"),
    _fails("change its personality", "syscall(135, 0x0040000)"),
    _fails("use a secret memory area", "syscall(447, 0)"),
    _fails("watch all file events", "syscall(300, 0, 0)"),
    _fails("swap on a file", "open('swap', 'wb').write(bytes(1 << 16)); syscall(167, b'swap', 0)"),
    _fails("type into the terminal", "fd = os.open('/dev/tty', os.O_RDWR); syscall(16, fd, 0x5412, b'x')"),
    _fails("type with high bits in the request", "syscall(16, 0, 0x100005412, b'x')"),
    _fails("call by the x32 numbers", "syscall(0x40000000 | 102)"),
    Attack(
        name="call by the 32-bit gate",
        body="""
import mmap
code = bytes.fromhex('b814000000cd80c3')  # getpid by int 0x80: another table of calls than the filter's
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
if run() > 0: reached()
""",
        real=False,
    ),
]

PYTHON = [
    Attack(
        name="open a file by ctypes",
        body="fd = _libc.open(H['secret_file'].encode(), 0); reached(os.read(fd, 99)) if fd >= 0 else None",
    ),
    Attack(name="import a module planted by PYTHONPATH", body="import planted_module; reached()"),
    Attack(
        name="leave a sitecustomize for the next run",
        body="""
home = os.path.expanduser('~')
for place in ('.', home, '/tmp', home + '/.local/lib/python3.11/site-packages'):
    try:
        os.makedirs(place, exist_ok=True)
        for name in ('sitecustomize.py', 'usercustomize.py', 'json.py'):
            open(place + '/' + name, 'w').write('POISON = True')
    except OSError:
        pass
""",
        second="""
for name in ('sitecustomize', 'usercustomize', 'json'):
    try:
        if hasattr(__import__(name), 'POISON'): reached(name)
    except ImportError:
        pass
""",
        real=False,
    ),
    Attack(
        name="hand back a pickle that runs",
        body="""
import pickle
class Evil:
    def __reduce__(self): return (os.mkdir, (H['folder'] + '/new',))
open('result.pkl', 'wb').write(pickle.dumps(Evil()))
print(pickle.dumps(Evil(), 0).decode())
""",
        real=False,
    ),
    Attack(
        name="forge the answer about files",
        body="""
name = b'../../../../tmp/forged-' + H['token'].encode()
entry = struct.pack('<IQ', len(name), 4) + name + b'evil'
forged = struct.pack('<IiQII', 0x58424E53, 0, 1 << 63, 0, 2) + entry
for pid in os.listdir('/proc'):
    for fd in range(3, 32):
        try:
            fh = os.open(f'/proc/{int(pid)}/fd/{fd}', os.O_WRONLY)
            os.pwrite(fh, forged, 0)
        except (OSError, ValueError):
            pass
try: os.kill(os.getppid(), 9)
except OSError: pass
""",
        real=False,
        check=_names_inside,
    ),
    Attack(
        name="write escapes to the terminal",
        body=r"print('\x1b]0;title\x07\x1b[2J\x1b]52;c;ZXZpbA==\x07\x9b31m \x08\r \x7f \u202e \u2066')",
        real=False,
        check=_no_escapes,
    ),
    Attack(
        name="dump core into a folder outside",
        body="os.chdir(H['folder'])\nos.abort()",
        real=False,
    ),
    Attack(
        name="run a shell that reads the profile",
        body="""
import subprocess
out = subprocess.run(['/bin/sh', '-lc', 'cat ' + H['secret_file']], capture_output=True).stdout
if out: reached(out)
""",
    ),
]
