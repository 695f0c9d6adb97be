"""Supervise one child from its start to its end: feed its input, collect its output, enforce its limits.

The supervisor's own memory stays flat: output beyond the limit is dropped as it is read, and the child is
killed.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from dataclasses import dataclass, field

from sandbox import stage, watch
from sandbox.child import Child
from sandbox.errors import SandboxFailed
from sandbox.limits import Limits
from sandbox.result import RunResult, StageReport, Status, read_report

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


@dataclass
class _Observation:
    """What the supervisor saw: the output, the peak of memory, and what ended the run."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    peak: int = 0
    killed_by: str | None = None
    exit_code: int = 0


class Supervisor:
    """Runs one started child to its end, and kills it at the first limit that it exceeds.

    Args:
        child: the child.
        limits: what it may use.
        stdin: its standard input.
        cancel: set by the caller to end the run.
        started: when it was started, by `time.monotonic`.
    """

    def __init__(
        self, child: Child, limits: Limits, stdin: bytes, cancel: threading.Event, started: float
    ) -> None:
        self._child, self._limits, self._cancel, self._started = child, limits, cancel, started
        self._stdin = memoryview(stdin)
        self._seen = _Observation()

    def run(self) -> RunResult:
        """Wait for the end of the run, or bring it about, and return its result.

        Raises:
            SandboxFailed: bubblewrap or the stage failed before the program began.
        """
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
        return self._result()

    def _loop(self, selector: selectors.BaseSelector) -> None:
        next_check = 0.0
        # Both output pipes are closed when the last process that holds them has ended.
        while len(selector.get_map()) > (self._child.process.stdin in _streams(selector)):
            ready = selector.select(self._pause())
            for key, _ in ready:
                self._move(selector, key)
            now = time.monotonic()
            if now >= next_check:
                self._check(now)
                next_check = now + self._pause()
            if self._seen.killed_by:
                self._child.kill()
                return

    def _pause(self) -> float:
        """Return the seconds between two checks: 4 ms at first, since most runs are short, then 20 ms."""
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
        usage = self._child.usage()
        self._seen.peak = max(self._seen.peak, usage.memory_bytes)
        if self._seen.killed_by:
            return
        if self._cancel.is_set():
            self._seen.killed_by = "cancel"
        elif now - self._started > self._limits.wall_s:
            self._seen.killed_by = "wall"
        else:
            self._seen.killed_by = watch.exceeded_limit(usage, self._limits, self._child.process.pid)

    def _result(self) -> RunResult:
        seen, report = self._seen, StageReport()
        if seen.killed_by is None:
            if seen.exit_code != 0 and not self._child.report(stage.HEADER.size):
                stderr = seen.err.decode(errors="replace").strip()
                raise SandboxFailed(
                    f"The sandbox broke before the program began: {stderr!r}. "
                    "print(Sandbox.tier()) shows which tier works here."
                )
            report = read_report(
                self._child.report(self._limits.disk_bytes + stage.HEADER.size), self._limits
            )
        status, killed_by, code = _verdict(seen, report)
        return RunResult(
            status=status,
            exit_code=code,
            stdout=seen.out.decode("utf-8", "replace"),
            stderr=seen.err.decode("utf-8", "replace"),
            files=report.files,
            duration_s=time.monotonic() - self._started,
            peak_bytes=max(seen.peak, report.peak),
            truncated=seen.killed_by == "output" or report.cut,
            killed_by=killed_by,
            tier=self._child.tier,
        )


def _streams(selector: selectors.BaseSelector) -> list[object]:
    return [key.fileobj for key in selector.get_map().values()]


def _verdict(seen: _Observation, report: StageReport) -> tuple[Status, str | None, int | None]:
    """Return (status, killed_by, exit code)."""
    if seen.killed_by is not None:
        return _STATUS[seen.killed_by], seen.killed_by, None
    if seen.exit_code != 0:  # the program killed the stage or bubblewrap
        return "killed", "signal SIGKILL", None
    code = report.exit_code
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
