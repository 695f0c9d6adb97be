"""What runs inside the sandbox before the program does. Self-contained: only the interpreter's own modules.

The supervisor compiles this file and hands it in with the request, so nothing of this package needs to be
readable inside. `main` lays the files out, takes on the limits, starts the program, waits for it and hands
back the files it left. It must not be trusted by the outside: whatever runs after it can forge what it says,
and forging gains nothing but another file or exit code of the program's own.

The request (a marshalled dict, written by the supervisor): code, files, argv, work, path, environment,
limits, uid, result and lifeline descriptors, and on tier 2 landlock and seccomp. The answer (on the result
descriptor): a header of five little-endian numbers (magic, exit code, peak bytes, cut, number of files), then
per file the length of its name, the length of its content, name, content.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import stat
import struct
from typing import Any

MAGIC = 0x58424E53
HEADER = struct.Struct("<IiQII")
ENTRY = struct.Struct("<IQ")


def main(request: dict[str, Any]) -> None:
    """Run the request and leave its answer on the result descriptor; never returns.

    The exit code is 0 where the answer is complete, 70 where the sandbox itself failed (stderr says how).
    """
    try:
        os.umask(0o022)
        _become(request["uid"])
        if os.getpid() > 9:
            _adopt_orphans()
        _lay_out(request)
        _mark_begun(request["result"])
        child = os.fork()
        if child == 0:
            _start(request)
        os.close(0)
        peak, code = _wait(child, request)
        _end_all(child)
        _answer(request, peak, code)
    except BaseException as error:
        os.write(2, f"sandbox stage: {type(error).__name__}: {error}\n".encode())
        os._exit(70)
    os._exit(0)


def _become(uid: int | None) -> None:
    """Leave root for an id that owns nothing, where the supervisor runs as root."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _adopt_orphans() -> None:
    """Without a PID namespace: what the program leaves behind becomes this process's child."""
    import ctypes

    pr_set_child_subreaper = 36
    if ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")


def _lay_out(request: dict[str, Any]) -> None:
    os.makedirs(request["work"], exist_ok=True)
    os.chdir(request["work"])
    for name, content in request["files"].items():
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)
    for name, target in request["links"].items():
        os.makedirs(os.path.dirname(name), exist_ok=True)
        os.symlink(target, name)


def _mark_begun(result: int) -> None:
    """An answer for the case that no other follows: from here on a failure is the program's."""
    os.pwrite(result, HEADER.pack(MAGIC, -signal.SIGKILL, 0, 1, 0), 0)


def _start(request: dict[str, Any]) -> None:
    """In the forked child: take on the limits and become the program."""
    try:
        os.setsid()
        os.closerange(3, 65536)
        for kind, soft, hard in request["limits"]:
            resource.setrlimit(kind, (soft, hard))
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if request["landlock"]:
            _confine(request)
        os.execve(request["argv"][0], request["argv"], request["environment"])
    except BaseException as error:
        os.write(2, f"sandbox stage: cannot start {request['argv'][0]}: {error}\n".encode())
        os._exit(70)


def _confine(request: dict[str, Any]) -> None:
    """Tier 2: Landlock's rules and the seccomp filter, taken on by the program alone."""
    scope: dict[str, Any] = {}
    exec(request["landlock"], scope)
    scope["restrict"](request["rules"], request["work"])
    filter_ = request["seccomp"].replace(request["self_pid"], os.getpid().to_bytes(4, "little"))
    scope["load_filter"](filter_)


def _wait(child: int, request: dict[str, Any]) -> tuple[int, int]:
    """Wait for the program, or for the supervisor's death: then nothing here may outlive it."""
    lifeline = request["lifeline"]
    watched = os.pidfd_open(child)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(watched, select.POLLIN)
    while True:
        if any(descriptor == lifeline for descriptor, _ in poll.poll()):
            _end_all(child)
            _tidy(request)
            os._exit(71)
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done == child:
            return usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


def _tidy(request: dict[str, Any]) -> None:
    """Remove the work folder where it is one of the machine's and nobody is left to do it."""
    if request["remove"] is not None:
        scope: dict[str, Any] = {"__name__": "remove"}
        exec(request["remove"], scope)
        scope["remove_tree"](request["work"])


def _end_all(child: int) -> None:
    """Kill what the program left running. In a PID namespace the kernel does that when its init goes.

    On tier 2 this process is the subreaper of everything the program started, so its children are all there
    is; killing one hands its own children to this process, hence the rounds.
    """
    if os.getpid() < 10:  # inside a PID namespace
        return
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass
    for _ in range(1000):
        children = _children()
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                continue


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def _answer(request: dict[str, Any], peak: int, code: int) -> None:
    """Write the files that are new or changed until the limits are reached, then the header before them."""
    left, many, cut, count = request["result_bytes"], request["result_files"], 0, 0
    with open(request["result"], "wb") as out:
        out.write(HEADER.pack(MAGIC, code, peak, 0, 0))
        for name in sorted(_files()):
            size = _copy(name, out, left if many else -1, request["files"].get(name))
            cut |= size is None
            if size:
                left, many, count = left - size, many - 1, count + 1
        out.seek(0)
        out.write(HEADER.pack(MAGIC, code, peak, cut, count))


def _files() -> list[str]:
    found = []
    for folder, folders, names in os.walk("."):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.relpath(os.path.join(folder, name), ".") for name in names]
    return found


def _copy(name: str, out: Any, left: int, given: bytes | None) -> int | None:
    """Append one file; the bytes it took, 0 if unchanged or no regular file, None if left out."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0 if os.path.islink(name) else None
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return 0
        path = os.fsencode(name)
        size = ENTRY.size + len(path) + about.st_size
        if given is not None and len(given) == about.st_size and file.read() == given:
            return 0
        if size > left:
            return None
        file.seek(0)
        out.write(ENTRY.pack(len(path), about.st_size) + path)
        _stream(file, out, about.st_size)
        return size


def _stream(file: Any, out: Any, size: int) -> None:
    """Copy exactly `size` bytes: a file that shrinks meanwhile is filled with zeros, so the format holds."""
    while size > 0:
        block = file.read(min(size, 1 << 18))
        out.write(block or b"\0" * size)
        size -= len(block) or size
