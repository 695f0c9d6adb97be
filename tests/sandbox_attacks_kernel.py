"""Attacks by rare system calls and by means of Python. Data for tests/test_sandbox_attacks.py."""

from __future__ import annotations

from sandbox_attacks_host import Attack, fails

from sandbox import RunResult, printable


def _no_escapes(result: RunResult) -> str | None:
    shown = printable(result.stdout + result.stderr)
    bad = [char for char in shown if not char.isprintable() and char not in "\n\t"]
    return f"control characters on screen: {bad!r}" if bad else None


def _names_inside(result: RunResult) -> str | None:
    out = [name for name in result.files if name.startswith("/") or ".." in name]
    return f"names that leave the folder: {out}" if out else None


KERNEL = [
    fails("mount a file system", "syscall(165, b'tmpfs', b'/tmp', b'tmpfs', 0, None)"),
    fails("remount the root for writing", "syscall(165, None, b'/', None, 0x20 | 0x1000, None)"),
    fails("take away what covers /proc/sys", "syscall(166, b'/proc/sys', 2)"),
    fails("open a mount by the newer calls", "syscall(430, b'tmpfs', 0)"),
    fails("make a user namespace", "syscall(272, 0x10000000)"),
    fails("make a user namespace by clone", "syscall(56, 0x10000011, 0, 0, 0, 0) or os._exit(0)"),
    fails(
        "make a user namespace by clone3",
        "syscall(435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, *[0] * 6), 88) or os._exit(0)",
    ),
    fails("join a namespace", "syscall(308, os.open('/proc/self/ns/net', 0), 0)"),
    fails("move the root", "syscall(155, b'.', b'.')"),
    fails("use bpf", "syscall(321, 0, struct.pack('IIIII', 2, 4, 4, 1, 0), 20)"),
    fails("use io_uring", "syscall(425, 4, ctypes.create_string_buffer(120))"),
    fails("use userfaultfd", "syscall(323, 1)"),
    fails("use performance counters", "syscall(298, struct.pack('II', 1, 112) + bytes(104), 0, -1, -1, 0)"),
    fails("load a kernel module", "syscall(313, os.open('/dev/null', 0), b'', 0)"),
    fails("load another kernel", "syscall(320, -1, -1, 0, b'', 4)"),
    fails("reboot", "syscall(169, 0xfee1dead, 672274793, 0, 0)"),
    fails("set the clock", "time.clock_settime(0, time.time())"),
    fails("set the host's name", "syscall(170, b'canary', 6)"),
    fails("use ports of the machine", "syscall(172, 3)"),
    fails("change its personality", "syscall(135, 0x0040000)"),
    fails("use a secret memory area", "syscall(447, 0)"),
    fails("watch all file events", "syscall(300, 0, 0)"),
    fails("swap on a file", "open('swap', 'wb').write(bytes(1 << 16)); syscall(167, b'swap', 0)"),
    fails("type into the terminal", "fd = os.open('/dev/tty', os.O_RDWR); syscall(16, fd, 0x5412, b'x')"),
    fails("type with high bits in the request", "syscall(16, 0, 0x100005412, b'x')"),
    fails("call by the x32 numbers", "syscall(0x40000000 | 102)"),
    Attack(
        name="call by the 32-bit gate",
        body="""
import mmap
code = bytes.fromhex('b814000000cd80c3')  # getpid by int 0x80, whose call numbers differ from the filter's
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
