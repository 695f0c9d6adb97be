"""Runs work in a child whose n-th write to a folder fails, at the system call.

A seccomp filter reports every write, truncation and sync of the child, by SQLite, Chroma or Python, to this
process, which lets the call go on or answers it with an errno. To the child that is the same as a broken
disk. It needs Linux 5.5 or newer.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyseccomp

CALLS = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync")
# linux/seccomp.h, linux/prctl.h and the table of system calls of x86-64
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NO_NEW_PRIVS, _SECCOMP, _SET_FILTER, _NEW_LISTENER, _CONTINUE = 38, 317, 1, 8, 1
_REQUEST = struct.Struct("QIIiIQ6Q")  # id, pid, flags; number, architecture, instruction, arguments
_ANSWER = struct.Struct("QqiI")  # id, value, -errno, flags


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _compiled() -> bytes:
    chosen = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in CALLS:
        chosen.add_rule(pyseccomp.NOTIFY, name)
    with tempfile.TemporaryFile() as target:
        chosen.export_bpf(target)
        target.seek(0)
        return target.read()


def _listened_to(code: bytes) -> int:
    """Install the filter on this thread and those it starts; return the descriptor that gets the calls."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(code) // 8, code)
    listener = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp with a listener was refused")
    return int(listener)


def run(
    work: Callable[[], str], folder: Path, fails: Callable[[int], int], timeout_s: float = 60
) -> tuple[str, int]:
    """Return the result of `work` or its traceback, and the number of writes to files under `folder`.

    `fails` gets the number of a write, from 1, and returns the errno that it fails with, or 0.
    """
    code = _compiled()
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ours.close()
        os.close(reading)
        try:
            socket.send_fds(theirs, [b"x"], [_listened_to(code)])
            told = work()
        except BaseException:
            told = traceback.format_exc()
        os.write(writing, told.encode())
        os._exit(0)
    theirs.close()
    os.close(writing)
    listeners = socket.recv_fds(ours, 1, 1)[1]
    ours.close()
    try:
        count = _supervise(listeners[0], str(folder.resolve()) + os.sep, fails, timeout_s) if listeners else 0
    finally:
        time.sleep(0.05)  # the last thread may still be ending
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        for listener in listeners:
            os.close(listener)
    with os.fdopen(reading) as pipe:
        how = f"ended by signal {os.WTERMSIG(status)}" if ended else f"wrote nothing for {timeout_s} s"
        return pipe.read() or how, count


def _supervise(listener: int, folder: str, fails: Callable[[int], int], timeout_s: float) -> int:
    """Answer every write until the child has ended; return the number of writes under `folder`."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    count = 0
    while True:
        ready = waiting.poll(timeout_s * 1000)
        if not ready or not ready[0][1] & select.POLLIN:
            return count  # the child has ended, or it wrote nothing for `timeout_s`
        request = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, request)
            identity, pid, *_, descriptor = _REQUEST.unpack(request)[:7]
            error = 0
            if os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(folder):
                count += 1
                error = fails(count)
            answer = _ANSWER.pack(identity, 0, -error, 0 if error else _CONTINUE)
            fcntl.ioctl(listener, _SEND, bytearray(answer))
        except FileNotFoundError:
            continue  # the thread that made the call has ended
