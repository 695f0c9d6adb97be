"""Drives one child from its start to its end, and says what happened. Time, output, memory, processes.

Its own memory stays flat: output beyond the limit is dropped as it is read, and the child is killed.
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
class Seen:
    """What the supervision saw: output, the largest use, and who ended the run."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    peak: int = 0
    killed_by: str | None = None
    exit_code: int = 0


class Supervision:
    """Drives one child to its end: feeds stdin, collects output, kills at the first limit passed."""

    def __init__(
        self, child: Child, limits: Limits, stdin: bytes, cancel: threading.Event, started: float
    ) -> None:
        self._child, self._limits, self._cancel, self._started = child, limits, cancel, started
        self._stdin = memoryview(stdin)
        self._seen = Seen()

    def until_end(self) -> Seen:
        """Wait for the end of the run, or bring it about."""
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


def result(child: Child, seen: Seen, limits: Limits, duration_s: float) -> RunResult:
    """The result of a run that has ended.

    Raises:
        SandboxFailed: bubblewrap or the stage failed before the program began.
    """
    answer = StageReport()
    if seen.killed_by is None:
        if seen.exit_code != 0 and not child.answer(stage.HEADER.size):
            raise SandboxFailed(
                f"The sandbox broke before the program began: {seen.err.decode(errors='replace').strip()!r}. "
                "Run `agent doctor` to see which tier holds."
            )
        answer = read_report(child.answer(limits.disk_bytes + stage.HEADER.size), limits)
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


def _verdict(seen: Seen, answer: StageReport) -> tuple[Status, str | None, int | None]:
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
