"""Runs one program in a sandbox and reports what it did. The supervisor: time, output, memory, processes.

Its own memory stays flat: output beyond the limit is never read into it, files come back in one bounded
answer.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sandbox import stage, tier, watch
from sandbox.child import Child, Program
from sandbox.errors import SandboxFailed, SandboxLimitError
from sandbox.limits import Limits
from sandbox.result import RunResult, Status

MAIN = "main.py"
_BLOCK = 64 * 1024
_STATUS: dict[str, Status] = {
    "wall": "timeout",
    "cpu": "timeout",
    "memory": "memory",
    "output": "output",
    "processes": "processes",
    "files": "files",
    "cancel": "cancelled",
}


class Sandbox:
    """A place to run Python programs that nobody vouches for.

    Holds limits only: every run is a child of its own, and nothing is left of it. Safe to use from several
    threads.

    Args:
        limits: what each run may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    @staticmethod
    def tier() -> tier.Tier:
        """Which protection holds on this machine, and what it does not cover (found out once a process)."""
        return tier.current()

    def run(
        self,
        code: str,
        *,
        files: Mapping[str, bytes | str] | None = None,
        stdin: str | bytes = "",
        argv: Sequence[str] = (),
    ) -> RunResult:
        """Run a Python program as `main.py` in an empty folder and wait for its end.

        Args:
            code: source text of the program.
            files: path below the work folder -> content; there when the program starts.
            stdin: what it can read from standard input.
            argv: its arguments (`sys.argv[1:]`).

        Returns:
            What it did. A program that fails or is ended is a result, never an exception.

        Raises:
            SandboxUnavailable: no tier holds on this machine; nothing was run.
            SandboxLimitError: a file's name leaves the folder, or what was given is larger than the limits.
            SandboxFailed: the sandbox broke before the program began.
        """
        return self._run(self._program(code, files or {}, argv), _bytes(stdin), threading.Event())

    async def arun(
        self,
        code: str,
        *,
        files: Mapping[str, bytes | str] | None = None,
        stdin: str | bytes = "",
        argv: Sequence[str] = (),
    ) -> RunResult:
        """`run` without blocking the event loop; cancelling the task kills the program before it returns."""
        program = self._program(code, files or {}, argv)
        cancel = threading.Event()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._run, program, _bytes(stdin), cancel)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait([work])
            raise

    def _program(self, code: str, files: Mapping[str, bytes | str], argv: Sequence[str]) -> Program:
        inside = {_name(name): _bytes(content) for name, content in files.items()}
        if MAIN in inside:
            raise SandboxLimitError(f"files: {MAIN!r} is the program's own name; give that file another one.")
        inside[MAIN] = _bytes(code)
        size = sum(map(len, inside.values()))
        if size > self.limits.disk_bytes or len(inside) > self.limits.files:
            raise SandboxLimitError(
                f"files: expected at most {self.limits.files} files of {self.limits.disk_bytes} bytes together, "
                f"found {len(inside)} of {size} bytes; raise Limits.disk_bytes or Limits.files."
            )
        for one in argv:
            if "\0" in one:
                raise SandboxLimitError(f"argv: expected text without NUL characters, found {one!r}.")
        return Program(arguments=[MAIN, *argv], files=inside)

    def _run(self, program: Program, stdin: bytes, cancel: threading.Event) -> RunResult:
        confinement = tier.require()
        started = time.monotonic()
        child = Child(program, self.limits, confinement)
        try:
            seen = _Supervision(child, self.limits, stdin, cancel, started).until_end()
            return _result(child, seen, self.limits, time.monotonic() - started)
        finally:
            child.close()


@dataclass
class _Seen:
    """What the supervision saw: output, the largest use, and who ended the run."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    peak: int = 0
    killed_by: str | None = None
    exit_code: int = 0


class _Supervision:
    """Drives one child to its end: feeds stdin, collects output, samples use, kills at the first limit passed."""

    def __init__(
        self, child: Child, limits: Limits, stdin: bytes, cancel: threading.Event, started: float
    ) -> None:
        self._child, self._limits, self._cancel, self._started = child, limits, cancel, started
        self._stdin = memoryview(stdin)
        self._seen = _Seen()

    def until_end(self) -> _Seen:
        process = self._child.process
        assert process.stdin and process.stdout and process.stderr
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            self._loop(selector)
        self._seen.exit_code = process.wait()
        return self._seen

    def _loop(self, selector: selectors.BaseSelector) -> None:
        next_look = 0.0
        # Both output pipes close when the last process that holds them is gone.
        while len(selector.get_map()) > (self._child.process.stdin in _streams(selector)):
            ready = selector.select(self._pause())
            for key, _ in ready:
                self._move(selector, key)
            now = time.monotonic()
            if now >= next_look:
                self._check(now)
                next_look = now + self._pause()
            if self._seen.killed_by:
                self._child.kill()
                return

    def _pause(self) -> float:
        """Seconds between two looks: 4 ms at first (most runs are short), 20 ms for longer ones."""
        return 0.004 if time.monotonic() - self._started < 0.1 else 0.02

    def _move(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        process = self._child.process
        if key.fileobj is process.stdin:
            self._feed(selector)
            return
        block = os.read(key.fd, _BLOCK)
        if not block:
            selector.unregister(key.fileobj)
            return
        room = self._limits.output_bytes - len(self._seen.out) - len(self._seen.err)
        (self._seen.out if key.fileobj is process.stdout else self._seen.err).extend(block[: max(0, room)])
        if len(block) > room:
            self._seen.killed_by = "output"

    def _feed(self, selector: selectors.BaseSelector) -> None:
        stream = self._child.process.stdin
        assert stream
        try:
            if self._stdin:
                self._stdin = self._stdin[os.write(stream.fileno(), self._stdin[:_BLOCK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = self._stdin[:0]
        if not self._stdin:
            selector.unregister(stream)
            stream.close()

    def _check(self, now: float) -> None:
        use = self._child.use()
        self._seen.peak = max(self._seen.peak, use.memory_bytes)
        if self._seen.killed_by:
            return
        if self._cancel.is_set():
            self._seen.killed_by = "cancel"
        elif now - self._started > self._limits.wall_s:
            self._seen.killed_by = "wall"
        else:
            self._seen.killed_by = watch.passed(use, self._limits, self._child.process.pid)


def _streams(selector: selectors.BaseSelector) -> list[object]:
    return [key.fileobj for key in selector.get_map().values()]


@dataclass
class _Answer:
    """The stage's answer, checked."""

    exit_code: int = 0
    peak: int = 0
    cut: bool = False
    files: dict[str, bytes] = field(default_factory=dict)


def _result(child: Child, seen: _Seen, limits: Limits, duration_s: float) -> RunResult:
    answer = _Answer()
    if seen.killed_by is None:
        if seen.exit_code != 0 and seen.err.startswith((b"bwrap: ", b"sandbox stage: ")):
            raise SandboxFailed(
                f"The sandbox broke before the program began: {seen.err.decode(errors='replace').strip()!r}. "
                "Run `agent doctor` to see which tier holds."
            )
        answer = _parse(child.answer(limits.disk_bytes + stage.HEADER.size), limits)
    status, killed_by, code = _verdict(seen, answer)
    return RunResult(
        status=status,
        exit_code=code,
        stdout=seen.out.decode("utf-8", "replace"),
        stderr=seen.err.decode("utf-8", "replace"),
        files=answer.files,
        duration_s=duration_s,
        peak_bytes=max(seen.peak, answer.peak),
        truncated=seen.killed_by == "output" or answer.cut,
        killed_by=killed_by,
        tier=child.tier,
    )


def _verdict(seen: _Seen, answer: _Answer) -> tuple[Status, str | None, int | None]:
    """(status, killed_by, exit code)."""
    if seen.killed_by is not None:
        return _STATUS[seen.killed_by], seen.killed_by, None
    if seen.exit_code != 0:  # the stage or bubblewrap died: the program killed what held it
        return "killed", "signal SIGKILL", None
    code = answer.exit_code
    if code == -signal.SIGXCPU:
        return "timeout", "cpu", code
    if code < 0:
        return "killed", f"signal {_signal_name(-code)}", code
    if code > 0 and seen.err.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
        return "memory", None, code
    return ("ok" if code == 0 else "error"), None, code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _parse(data: bytes, limits: Limits) -> _Answer:
    """Read the stage's answer. It may be forged: nothing in it is believed beyond its size."""
    broken = _Answer(exit_code=1, cut=True)
    if len(data) < stage.HEADER.size:
        return broken
    magic, code, peak, cut, count = stage.HEADER.unpack_from(data)
    if magic != stage.MAGIC:
        return broken
    answer = _Answer(exit_code=code, peak=min(peak, 1 << 50), cut=bool(cut))
    at = stage.HEADER.size
    for _ in range(min(count, limits.files)):
        try:
            length, size = stage.ENTRY.unpack_from(data, at)
        except struct.error:
            answer.cut = True
            break
        at += stage.ENTRY.size
        name, at = data[at : at + length].decode("utf-8", "surrogateescape"), at + length
        if at + size > len(data) or not _is_inside(name):
            answer.cut = True
            break
        answer.files[name], at = data[at : at + size], at + size
    return answer


def _name(name: str) -> str:
    if not _is_inside(name):
        raise SandboxLimitError(
            f"files: expected a relative path inside the work folder, found {name!r}; no '..', no leading '/'."
        )
    return str(PurePosixPath(name))


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\0" not in name
        and len(name) < 4096
    )


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
