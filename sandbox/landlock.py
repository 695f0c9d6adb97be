"""Tier 2: restrict the calling process by Landlock and load a seccomp filter into it.

This file is self-contained, because the stage runs its code inside the child that it forks. Landlock decides
which files may be opened, made, renamed or removed. The seccomp filter covers the rest: metadata, sockets,
and signals before ABI 6.

Source: Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h of Linux 6.12.
"""

from __future__ import annotations

import ctypes
import os
import stat

# ABI 3 (Linux 6.2) is the first that refuses to truncate a file outside, so older ones are not used.
LEAST_ABI = 3
SCOPES_SINCE = 6

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_OF_ABI = {3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_ON_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL_DEV
_LOOK = _EXECUTE | _READ | _READ_DIR
_DEVICES = {"/dev/null": _READ | _WRITE, "/dev/zero": _READ, "/dev/full": _READ | _WRITE}
_RANDOM = {"/dev/random": _READ, "/dev/urandom": _READ}


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def abi() -> int:
    """Return the kernel's Landlock ABI, or 0 if it has none or has it switched off."""
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, 0, 1)))


def restrict(readable: list[str], work: str) -> None:
    """Restrict this process and all that it starts, irrevocably.

    Args:
        readable: files and folders that may be read and executed; missing ones are skipped.
        work: the only folder that may be written.

    Raises:
        OSError: the kernel refused the rules, so nothing must be run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = abi()
    handled = _ALL_OF_ABI.get(version, _ALL_OF_ABI[5])
    rules = _RulesetAttr(handled, 0b11 if version >= 4 else 0, 0b11 if version >= SCOPES_SINCE else 0)
    size = 8 if version < 4 else 16 if version < SCOPES_SINCE else 24
    ruleset = _checked(libc.syscall(_CREATE, ctypes.byref(rules), size, 0))
    writable = handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _IOCTL_DEV)
    allowed = {**dict.fromkeys(readable, _LOOK), **_DEVICES, **_RANDOM, work: writable}
    for path, access in allowed.items():
        _allow(libc, ruleset, path, access & handled)
    _no_new_privileges(libc)
    _checked(libc.syscall(_RESTRICT, ruleset, 0))
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        access &= _ON_FILES
    beneath = _PathBeneathAttr(access, descriptor)
    _checked(libc.syscall(_ADD, ruleset, 1, ctypes.byref(beneath), 0))
    os.close(descriptor)


def _no_new_privileges(libc: ctypes.CDLL) -> None:
    """Make set-user-id programs gain nothing, and drop root's capabilities at the next exec."""
    pr_set_no_new_privs, pr_capbset_drop, last_capability = 38, 24, 63
    if os.geteuid() == 0:
        for capability in range(last_capability + 1):
            libc.prctl(pr_capbset_drop, capability, 0, 0, 0)
    _checked(libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0))


def load_filter(bpf: bytes) -> None:
    """Load a seccomp program, an array of 8-byte instructions, into this process."""
    pr_set_seccomp, filter_mode = 22, 2
    program = _SockFprog(len(bpf) // 8, bpf)
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(pr_set_seccomp, filter_mode, ctypes.byref(program), 0, 0))


def _checked(value: int) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock or seccomp: {os.strerror(code)}")
    return value
