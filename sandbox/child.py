"""Start one sandboxed child and end it. No other file creates processes.

Both the supervisor (one program) and the parser pool (one long-lived worker) hold a `Child`. It builds the
tier's command line and the stage's request; time, output and results are left to its holder.

Two mechanisms end a child together with this process. bubblewrap's parent-death signal does so, which is why
all children are started on the launcher thread (`sandbox.launcher`). The lifeline pipe does so on every tier:
the stage sees its other end close when this process is gone, for whatever reason.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import secrets
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import bubblewrap, interpreter, seccomp, watch
from sandbox.errors import SandboxFailed
from sandbox.launcher import restore_sigchld, run_on_launcher, standard_streams_occupied
from sandbox.limits import Limits, counts_by_namespace, rlimits
from sandbox.program import Program
from sandbox.remove import remove_tree

_LINKS = ".packages"
# These ids lie above every range that distributions, systemd and container managers assign (UIDS-GIDS.md of
# systemd).
_UID_BASE, _UID_SPAN = 0x70000000, 0x0F000000
_BOOT = """
import marshal
with open({fd}, "rb") as file:
    request = marshal.load(file)
scope = {{"__name__": "stage"}}
exec(request["stage"], scope)
scope["main"](request)
"""


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """A tier's number and its variant, as `sandbox.tier` found them to work on this machine."""

    tier: int
    other_uid: bool = False
    scoped_signals: bool = True


class Child:
    """A started sandbox.

    `kill` and `close` may be called twice; `close` leaves no process, folder or descriptor behind.

    Attributes:
        process: the outermost process (bubblewrap, or the stage itself on tier 2), with pipes on all three
            streams.
        skip: number of processes below the outermost one that are the sandbox's own.
        work: the work folder on this machine; None on tier 1, where it is a tmpfs inside.
    """

    def __init__(self, program: Program, limits: Limits, confinement: Confinement) -> None:
        self.tier = confinement.tier
        self._disk_bytes = limits.disk_bytes
        self.skip = 2 if confinement.tier == 1 else 0
        self._lifeline = -1
        self.work: str | None = None
        self._result = -1
        try:
            with standard_streams_occupied():
                self.process = run_on_launcher(lambda: self._start(program, limits, confinement))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise SandboxFailed(f"The sandbox could not be started: {error}.") from error
            raise

    def _start(self, program: Program, limits: Limits, confinement: Confinement) -> subprocess.Popen[bytes]:
        self._result = os.memfd_create("result", 0)
        ours, theirs = os.pipe()
        self._lifeline = theirs
        opened = [ours]
        try:
            if confinement.tier == 1:
                command = _tier_one(program, limits, confinement, (self._result, ours), opened)
            else:
                self.work = tempfile.mkdtemp(prefix="sandbox-")
                command = _on_host(program, limits, confinement, (self._result, ours), opened, self.work)
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={},
                cwd="/",
                pass_fds=[*opened, self._result],
                start_new_session=True,
                preexec_fn=restore_sigchld if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN else None,
            )
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def kill(self) -> None:
        """End the whole tree now. On tier 1 the kernel does so, since a PID namespace ends with its init."""
        if self.process.poll() is not None:
            return
        if self.tier != 1:
            _kill_below(self.process.pid)
        self.process.kill()

    def usage(self) -> watch.ResourceUsage:
        """Return what the tree uses now."""
        if self.work is not None:
            return watch.measure_on_host(self.process.pid, work=self.work)
        return watch.measure(self.process.pid, skip=self.skip, folder="/tmp", size=self._disk_bytes)

    def processes(self) -> int:
        """Return the number of the program's processes that are alive."""
        return sum(not watch.is_zombie(pid) for pid in watch.descendants(self.process.pid)) - self.skip

    def report(self, max_bytes: int) -> bytes:
        """Return the stage's report, at most `max_bytes` of it. It is untrusted."""
        return os.pread(self._result, max_bytes, 0)

    def close(self) -> None:
        """Kill and reap what is left, and release every resource."""
        process = getattr(self, "process", None)
        if process is not None:
            self.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for descriptor in (self._lifeline, self._result):
            if descriptor >= 0:
                os.close(descriptor)
        self._lifeline = self._result = -1
        if self.work is not None:
            remove_tree(self.work)
            self.work = None


def _kill_below(root: int) -> None:
    """Kill every process below `root`, which is their subreaper.

    Process groups are killed first. The kernel does this in one step, so a fork bomb cannot outrun it
    (killing process by process was outrun for 36 s), and on tier 2 the filter lets no process leave its
    group. The rest is killed one by one in rounds, because the children of a killed process move up to the
    subreaper.
    """
    for _ in range(1000):
        alive = [pid for pid in watch.descendants(root) if not watch.is_zombie(pid)]
        if not alive:
            return
        for group in {_group(pid) for pid in alive} - {_group(root), 0}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _tier_one(
    program: Program, limits: Limits, held: Confinement, channels: tuple[int, int], opened: list[int]
) -> list[str]:
    """Return the command of a tier 1 run, and append the descriptors that it needs to `opened`."""
    python = interpreter.mounted()
    packages = {name: interpreter.package_folder(name) for name in program.packages}
    opened.append(seccomp.as_file(seccomp.program(1)))
    filter_descriptor = opened[-1]
    texts = [_memory_file(text.encode()) for text, _ in python.texts]
    opened += texts
    request = _request(program, limits, python, bubblewrap.WORK, channels)
    request["pid_namespace"] = True
    request["uid"] = _UID_BASE + secrets.randbelow(_UID_SPAN) if held.other_uid else None
    exact = held.other_uid or counts_by_namespace()
    request["limits"] = rlimits(limits, lasting=program.lasting, own=1 if held.other_uid else 2, exact=exact)
    opened.append(_memory_file(marshal.dumps(request)))
    boot = opened[-1]
    options = bubblewrap.arguments(
        python=python,
        limits=limits,
        packages=packages,
        filter_descriptor=filter_descriptor,
        text_descriptors=texts,
        other_uid=held.other_uid,
    )
    opened.append(_memory_file("\0".join(options).encode() + b"\0"))
    stage = [python.executable, "-I", "-S", "-B", "-c", _BOOT.format(fd=boot)]
    return [bubblewrap.find(), "--args", str(opened[-1]), "--", *stage]


def _on_host(
    program: Program,
    limits: Limits,
    held: Confinement,
    channels: tuple[int, int],
    opened: list[int],
    work: str,
) -> list[str]:
    """Return the command of a run without namespaces: tier 2, or tier 0 (a plain parser child)."""
    python = interpreter.in_place()
    request = _request(program, limits, python, work, channels)
    # Packages are linked into the work folder. An import lists the folders on its path, and the folder above
    # a package may hold anything.
    shown = {name: interpreter.package_folder(name) for name in program.packages}
    if shown:
        request["links"] = {f"{_LINKS}/{name}": folder for name, folder in shown.items()}
        request["environment"]["PYTHONPATH"] = os.pathsep.join([*python.packages, f"{work}/{_LINKS}"])
    request["limits"] = rlimits(limits, lasting=program.lasting, own=1, exact=False)
    request["remove"] = _code("remove.py")
    if held.tier == 2:
        request["landlock"] = _code("landlock.py")
        request["rules"] = [*(path for path, _ in python.binds), *shown.values()]
        request["seccomp"] = seccomp.program(2, scoped_signals=held.scoped_signals)
        request["self_pid"] = seccomp.SELF_PID.to_bytes(4, "little")
    opened.append(_memory_file(marshal.dumps(request)))
    return [python.executable, "-I", "-S", "-B", "-c", _BOOT.format(fd=opened[-1])]


def _request(
    program: Program, limits: Limits, python: interpreter.Interpreter, work: str, channels: tuple[int, int]
) -> dict[str, Any]:
    packages = [*python.packages, *([interpreter.PROJECT] if program.packages else [])]
    environment = {
        "HOME": work,
        "LANG": "C.UTF-8",
        # The user id of a run has no entry in a password file, so getpass.getuser() looks here.
        "LOGNAME": "sandbox",
        "USER": "sandbox",
        # With this order, `python` in a command that the program starts is the interpreter that runs it.
        "PATH": os.pathsep.join([os.path.dirname(python.executable), "/usr/bin", "/bin"]),
        "TMPDIR": "/tmp" if work == bubblewrap.WORK else work,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        # More threads of OpenBLAS and OpenMP would use up the limits on processes and address space.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **({"PYTHONPATH": os.pathsep.join(packages)} if packages else {}),
        **program.environment,
    }
    return {
        "stage": _code("stage.py"),
        "files": dict(program.files),
        "argv": [python.executable, "-s", *program.arguments],
        "environment": environment,
        "work": work,
        "uid": None,
        "pid_namespace": False,
        "landlock": None,
        "remove": None,
        "links": {},
        "result": channels[0],
        "lifeline": channels[1],
        "result_bytes": limits.disk_bytes if program.collect else 0,
        "result_files": limits.files if program.collect else 0,
    }


@functools.cache
def _code(name: str) -> Any:
    """Return a file of this package, compiled. The same interpreter runs inside and can unmarshal it."""
    source = Path(__file__).with_name(name)
    return compile(source.read_text(encoding="utf-8"), name, "exec", optimize=2, dont_inherit=True)


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("sandbox", 0)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
