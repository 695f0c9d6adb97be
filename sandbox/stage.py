"""The first program inside the sandbox: it prepares the run, starts the real program and reports its end.

This file is self-contained and uses only the interpreter's own modules. The launching process compiles it and
sends it with the request, so nothing of this package needs to be readable inside. `main` writes the files,
starts the program under its limits, waits for it, and reports the files that it left. The outside must not
trust the report: the program can forge it, but gains nothing except another file or exit code of its own.

The request is a marshalled dict: stage, files, argv, work, environment, limits, uid, links, pid_namespace
(whether the run has one of its own), the result and lifeline descriptors, the bounds of the report, and on
tier 2 landlock, seccomp and remove. The report, on the result descriptor, is a header of five little-endian
numbers (magic, exit code, peak bytes, cut, number of files), then for each file the length of its name, the
length of its content, its name, and its content.
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
    """Run the request and leave the report on the result descriptor. Never returns.

    The exit code is 0 if the report is complete, 70 if the sandbox itself failed (stderr says how), and 71 if
    the process outside has ended.
    """
    try:
        os.umask(0o022)
        _become(request["uid"])
        if not request["pid_namespace"]:
            _adopt_orphans()
        _lay_out(request)
        _mark_begun(request["result"])
        child = os.fork()
        if child == 0:
            _start(request)
        os.close(0)
        peak, code = _wait(child, request)
        _end_all(child, request)
        _report(request, peak, code)
    except BaseException as error:
        os.write(2, f"sandbox stage: {type(error).__name__}: {error}\n".encode())
        os._exit(70)
    os._exit(0)


def _become(uid: int | None) -> None:
    """Switch from root to an id that owns nothing, if the supervisor runs as root."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _adopt_orphans() -> None:
    """Become the subreaper, so that orphans become children of this process without a PID namespace too."""
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
    """Leave a report in case no other follows. From here on a failure counts as the program's."""
    os.pwrite(result, HEADER.pack(MAGIC, -signal.SIGKILL, 0, 1, 0), 0)


def _start(request: dict[str, Any]) -> None:
    """Set the limits and become the program, in the forked child."""
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
    """Apply Landlock's rules and the seccomp filter (tier 2) to the program alone."""
    scope: dict[str, Any] = {}
    exec(request["landlock"], scope)
    scope["restrict"](request["rules"], request["work"])
    filter_ = request["seccomp"].replace(request["self_pid"], os.getpid().to_bytes(4, "little"))
    scope["load_filter"](filter_)


def _wait(child: int, request: dict[str, Any]) -> tuple[int, int]:
    """Return (peak bytes, exit code) of the program; if the supervisor dies first, end everything."""
    lifeline = request["lifeline"]
    watched = os.pidfd_open(child)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(watched, select.POLLIN)
    while True:
        if any(descriptor == lifeline for descriptor, _ in poll.poll()):
            _end_all(child, request)
            _tidy(request)
            os._exit(71)
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done == child:
            return usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


def _tidy(request: dict[str, Any]) -> None:
    """Remove the work folder if it is on the host, because the process that would remove it has ended."""
    if request["remove"] is not None:
        scope: dict[str, Any] = {"__name__": "remove"}
        exec(request["remove"], scope)
        scope["remove_tree"](request["work"])


def _end_all(child: int, request: dict[str, Any]) -> None:
    """Kill what the program left running. In a PID namespace the kernel does so when its init ends.

    On tier 2 this process is the subreaper of all that the program started. The children of a killed process
    become its own, so it kills its children in rounds until none are left.
    """
    if request["pid_namespace"]:
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


def _report(request: dict[str, Any], peak: int, code: int) -> None:
    """Write the new and changed files until the limits are reached, then the header in front of them."""
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
    """Append one file; return its bytes, 0 if unchanged or not a regular file, None if left out."""
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
    """Copy exactly `size` bytes. A file that shrinks meanwhile is filled up with zeros to keep the format."""
    while size > 0:
        block = file.read(min(size, 1 << 18))
        out.write(block or b"\0" * size)
        size -= len(block) or size
