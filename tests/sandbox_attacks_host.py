"""The host that the attacks try to reach: canaries of every kind, and a check afterwards of what was touched.

This file makes everything that an attack could reach, readable and writable by everyone, so that only the
sandbox stands in the way and not file permissions. `reached` proves it: without a sandbox, the attacks get
through.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox import Limits, RunResult

ROOT = Path(__file__).parent.parent
ALL_TIERS = (1, 2)
# With small limits an attack on resources ends sooner and proves the same.
LIMITS = Limits(wall_s=5, cpu_s=3, memory_bytes=128 << 20, processes=16, disk_bytes=8 << 20, files=300)

PRELUDE = """
import ctypes, errno, os, socket, struct, sys, time
H = {host!r}
def reached(what=''):
    print('REACHED', what, flush=True)
_libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    whole = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    value = _libc.syscall(ctypes.c_long(number), *whole)
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return value
try:
{body}
except (OSError, ImportError, MemoryError, ValueError, AttributeError, RuntimeError) as error:
    print('refused:', type(error).__name__, error)
"""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attempt to get out.

    Attributes:
        name: name of the test.
        body: Python source. `H` holds the host's canaries; `reached()` reports that the attack got through.
        real: without a sandbox it gets through, which the tests prove by running it.
        tiers: the tiers that stop it. `Tier.gaps` lists what the others do not cover.
        limits: what the run may use.
        check: a further check of the result; returns what is wrong, or None.
        second: body of a second run, for attacks on a later run.
    """

    name: str
    body: str
    real: bool = True
    tiers: tuple[int, ...] = ALL_TIERS
    limits: Limits = LIMITS
    check: Callable[[RunResult], str | None] | None = None
    second: str | None = None

    def program(self, host: Host, body: str | None = None) -> str:
        """Return the source text to run."""
        lines = (body or self.body).strip("\n").splitlines()
        return PRELUDE.format(host=host.canaries, body="\n".join("    " + line for line in lines))


@dataclass
class Host:
    """Canaries and what they looked like before."""

    canaries: dict[str, Any] = field(default_factory=dict)
    _close: list[Callable[[], Any]] = field(default_factory=list)

    def __enter__(self) -> Host:
        self.secret = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix="host-"))
        self._close.append(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.folder.chmod(0o777)
        self._files()
        self._sockets()
        self._process()
        os.environ["CANARY_SECRET"] = self.secret
        self._close.append(lambda: os.environ.pop("CANARY_SECRET", None))
        self.canaries |= {
            "folder": str(self.folder),
            "secret_file": str(self.folder / "secret.txt"),
            "project": str(ROOT),
            "parent": os.getpid(),
            "token": self.secret[::-1],
            "uid": os.getuid(),
        }
        self._before = self._fingerprint()
        return self

    def __exit__(self, *_: object) -> None:
        for close in reversed(self._close):
            with contextlib.suppress(OSError):
                close()
        for pid in self.leftovers():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _files(self) -> None:
        (self.folder / "secret.txt").write_text(self.secret)
        (self.folder / "secret.txt").chmod(0o666)
        evil = self.folder / "evil"
        evil.mkdir()
        (evil / "planted_module.py").write_text("PLANTED = True\n")
        evil.chmod(0o755)
        shared = Path(f"/dev/shm/canary-{self.secret[:8]}")
        shared.write_text(self.secret)
        shared.chmod(0o666)
        self._close.append(shared.unlink)
        self.canaries |= {"shared_file": str(shared), "evil": str(evil)}
        descriptor = os.open(self.folder / "secret.txt", os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        self._close.append(lambda: os.close(descriptor))

    def _sockets(self) -> None:
        abstract = "\0canary-" + self.secret[:12]
        unix = str(self.folder / "socket")
        kinds = (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, abstract),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, unix),
            ("datagram", socket.AF_UNIX, socket.SOCK_DGRAM, unix + "-datagram"),
        )
        self._sockets_open: dict[str, socket.socket] = {}
        for name, family, kind, address in kinds:
            made = socket.socket(family, kind)
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen(8)
            made.setblocking(False)
            self._sockets_open[name] = made
            self._close.append(made.close)
            self.canaries[name] = made.getsockname()[1] if family == socket.AF_INET else address
        for path in (unix, unix + "-datagram"):
            os.chmod(path, 0o777)

    def _process(self) -> None:
        code = (
            "import signal,sys,time\n"
            "for n in (signal.SIGUSR1, signal.SIGWINCH): signal.signal(n, lambda *_: sys.exit(9))\n"
            "print('up', flush=True)\ntime.sleep(600)"
        )
        self.victim = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
        assert self.victim.stdout is not None and self.victim.stdout.readline() == b"up\n"
        self.canaries["victim"] = self.victim.pid
        self._close.append(self._end_victim)

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.wait()
        assert self.victim.stdout is not None
        self.victim.stdout.close()

    def _fingerprint(self) -> dict[str, Any]:
        secret = self.folder / "secret.txt"
        about = secret.stat() if secret.exists() else None
        return {
            "names": sorted(path.name for path in self.folder.iterdir()),
            "content": secret.read_text() if about else None,
            "about": about and (about.st_mode, about.st_uid, about.st_gid, about.st_nlink, about.st_mtime_ns),
            "attributes": os.listxattr(secret) if about else None,
            "limits": _victim_limits(self.victim.pid),
        }

    def leftovers(self) -> list[int]:
        """Return the processes that an attack left running; their command lines carry this host's token."""
        token = self.secret[::-1].encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if token in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def harm(self) -> list[str]:
        """Return what an attack changed, received or left behind."""
        found = []
        if self._fingerprint() != self._before:
            found.append(f"files or limits changed: {self._before} -> {self._fingerprint()}")
        for name, open_socket in self._sockets_open.items():
            with contextlib.suppress(BlockingIOError):
                open_socket.accept() if open_socket.type == socket.SOCK_STREAM else open_socket.recv(10)
                found.append(f"something arrived at the {name} socket")
        if self.victim.poll() is not None:
            found.append("the victim process is gone")
        time.sleep(0.02)
        if self.leftovers():
            found.append(f"processes left: {self.leftovers()}")
        return found


def _victim_limits(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/limits").read_text()
    return "gone"


def violations(attack: Attack, host: Host, result: RunResult) -> list[str]:
    """Return what the attack achieved; empty if it was stopped."""
    seen = result.stdout + result.stderr + "".join(map(repr, result.files.items()))
    found = host.harm()
    if "REACHED" in result.stdout:
        found.append(result.stdout[:300])
    if host.secret in seen:
        found.append("the secret came out")
    if attack.check is not None and (wrong := attack.check(result)):
        found.append(wrong)
    return found


def reached(attack: Attack, host: Host) -> bool:
    """Return True if the attack gets through without a sandbox, in a plain child of this process."""
    work = Path(tempfile.mkdtemp(prefix="plain-", dir=host.folder.parent))
    (work / "main.py").write_text(attack.program(host))
    environment = {**os.environ, "PYTHONPATH": host.canaries["evil"]}
    try:
        # A pipe would be held open by what the attack leaves behind.
        with open(work / "out", "wb") as out:
            subprocess.run(
                [sys.executable, "main.py"],
                cwd=work,
                env=environment,
                close_fds=False,
                stdout=out,
                stderr=out,
                timeout=30,
                check=False,
            )
        return b"REACHED" in (work / "out").read_bytes() or bool(host.harm())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fails(name: str, body: str, *, tiers: tuple[int, ...] = (1, 2)) -> Attack:
    """Return an attack by a call that must be refused; it is not tried without a sandbox."""
    return Attack(name=name, body=body + "\nreached()", real=False, tiers=tiers)
