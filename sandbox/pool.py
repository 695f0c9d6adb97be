"""One long-lived limited child that calls a named function on many untrusted inputs.

With one process per file, every file would pay for the imports of all parsers. A child that lives on pays for
them once and is replaced after a failure, so that one hostile file costs one error. A file can still corrupt
the child's memory for the files that follow it in the same child, though never this process. Therefore a
child is also replaced after `calls_per_child` calls.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from sandbox import tier, watch, worker
from sandbox.child import Child, Confinement
from sandbox.errors import ParserCrashed, ParserRaised, SandboxFailed, SandboxLimitError, SandboxUnavailable
from sandbox.limits import MIB, Limits
from sandbox.program import Program

PARSER_LIMITS = Limits(
    wall_s=60, cpu_s=60, memory_bytes=1024 * MIB, processes=16, output_bytes=128 * MIB, disk_bytes=64 * MIB
)
_START_S = 60.0
_BLOCK = 1 << 18
_warned = threading.Event()


class ParserPool:
    """Calls a function in a limited child, which lives on from call to call.

    >>> with ParserPool("collections:Counter") as pool:  # any function from a dict to a dict
    ...     pool.call({"pages": 3})
    {'pages': 3}

    Several threads may use a pool; they take turns. If no sandbox works on this machine, the child is
    confined by rlimits and supervision only, and one line on stderr says so.

    Args:
        target: the function, as "package.module:function". It takes and returns a dict of plain data (None,
            bool, int, float, str, bytes, lists, dicts with text keys).
        limits: the limits of each call. `output_bytes` bounds the answer.
        packages: top-level packages that the function needs and that are not in site-packages. The
            function's own package is always shown.
        calls_per_child: number of calls after which the child is replaced.
    """

    def __init__(
        self,
        target: str,
        *,
        limits: Limits = PARSER_LIMITS,
        packages: Sequence[str] = (),
        calls_per_child: int = 500,
    ) -> None:
        module, _, name = target.partition(":")
        if not module or not name.isidentifier():
            raise SandboxLimitError(f"target: expected 'package.module:function', found {target!r}.")
        self.target, self.limits = target, limits
        self._packages = tuple(dict.fromkeys(("sandbox", module.split(".")[0], *packages)))
        self._calls_per_child, self._calls = calls_per_child, 0
        self._lock = threading.Lock()
        self._child: Child | None = None

    def call(self, payload: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the function's answer for one payload.

        Args:
            payload: plain data, which may hold large bytes objects.
            timeout_s: wall-clock seconds for this call instead of `limits.wall_s`.

        Raises:
            ParserRaised: the function raised; the child lives on.
            ParserCrashed: the child died or exceeded a limit; the next call starts another.
            SandboxFailed: the child cannot import the function.
            TypeError: the payload is not plain data.
        """
        with self._lock:
            if self._child is not None and self._calls >= self._calls_per_child:
                self._drop()
            if self._child is None:
                self._child = self._started()
            self._calls += 1
            frame = worker.pack({"call": self._calls, "payload": payload})
            answer = self._exchange(self._child, frame, timeout_s or self.limits.wall_s)
            if answer.get("call") != self._calls or self._child.processes() > 1:
                self._drop()  # a child that answers out of turn or left processes behind is replaced
            return self._value(answer)

    def close(self) -> None:
        """End the child. The pool can still be used: the next call starts another child."""
        with self._lock:
            self._drop()

    def __enter__(self) -> ParserPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        child = getattr(self, "_child", None)
        if child is not None:
            child.close()

    def _value(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("limit"):
            self._drop()
            raise ParserCrashed(_reason("memory", self.limits, self.target), "memory")
        if "kind" in answer:
            raise ParserRaised(str(answer["kind"]), str(answer.get("reason", "")))
        value = answer.get("value")
        if not isinstance(value, dict):
            raise ParserRaised("TypeError", f"{self.target}: expected a dict, found {type(value).__name__}")
        return value

    def _started(self) -> Child:
        program = Program(
            arguments=["-B", "-m", "sandbox.worker", self.target],
            packages=self._packages,
            collect=False,
            lasting=True,
        )
        self._calls = 0
        child = Child(program, self.limits, _confinement())
        self._child = child
        try:
            first = self._exchange(child, b"", _START_S)
        except ParserCrashed as error:
            raise SandboxFailed(f"The child for {self.target} did not start: {error}") from error
        if "failed" in first:
            self._drop()
            raise SandboxFailed(f"The child for {self.target} did not start: {first['failed']}")
        return child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def _exchange(self, child: Child, frame: bytes, seconds: float) -> dict[str, Any]:
        """Send one frame (none if empty) and receive one; drop the child on any failure."""
        try:
            body = _Exchange(child, self.limits, frame, seconds).answer()
            return worker.unpack(body)
        except ParserCrashed as error:
            raise ParserCrashed(
                _reason(error.cause, self.limits, self.target, str(error)), error.cause
            ) from None
        except ValueError as error:
            raise ParserCrashed(f"{self.target}: the child's answer is damaged: {error}", "died") from error
        finally:
            if sys.exc_info()[0] is not None:
                self._drop()


class _Exchange:
    """Sends one frame and receives one, under the limits of a call."""

    def __init__(self, child: Child, limits: Limits, frame: bytes, seconds: float) -> None:
        self._child, self._limits = child, limits
        self._out = memoryview(frame)
        self._in, self._err = bytearray(), bytearray()
        self._started = time.monotonic()
        self._until = self._started + seconds
        self._cpu_before = child.usage().cpu_s if frame else 0.0

    def answer(self) -> bytes:
        process = self._child.process
        assert process.stdin and process.stdout and process.stderr
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            if self._out:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while not self._complete():
                for key, _ in selector.select(self._pause()):
                    self._move(selector, key)
                self._check()
        return bytes(self._in[worker.PREFIX.size :])

    def _pause(self) -> float:
        return 0.005 if time.monotonic() - self._started < 0.1 else 0.02

    def _complete(self) -> bool:
        if len(self._in) < worker.PREFIX.size:
            return False
        length = int(worker.PREFIX.unpack_from(self._in)[0])
        if length > self._limits.output_bytes:
            raise ParserCrashed("", "output")
        return len(self._in) >= worker.PREFIX.size + length

    def _move(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        process = self._child.process
        if key.fileobj is process.stdin:
            try:
                self._out = self._out[os.write(key.fd, self._out[:_BLOCK]) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._out = self._out[:0]
            if not self._out:
                selector.unregister(key.fileobj)
            return
        block = os.read(key.fd, _BLOCK)
        if key.fileobj is process.stderr:
            self._err = (self._err + block)[-2000:]
            if not block:
                selector.unregister(key.fileobj)
        elif block:
            self._in += block
        else:
            raise ParserCrashed(self._err.decode("utf-8", "replace").strip(), "died")

    def _check(self) -> None:
        if time.monotonic() > self._until:
            raise ParserCrashed("", "timeout")
        usage = self._child.usage()
        spent = replace(usage, cpu_s=usage.cpu_s - self._cpu_before)
        cause = watch.exceeded_limit(spent, self._limits, self._child.process.pid)
        if cause is not None:
            raise ParserCrashed("", cause)


def _reason(cause: str, limits: Limits, target: str, detail: str = "") -> str:
    what = {
        "timeout": "took longer than its wall-clock limit",
        "cpu": f"used more than {limits.cpu_s:g} s of CPU",
        "memory": f"used more than {limits.memory_bytes // MIB} MiB of memory",
        "processes": f"started more than {limits.processes} processes",
        "output": f"answered with more than {limits.output_bytes // MIB} MiB",
        "files": f"made more than {limits.files} files",
        "died": "died",
    }
    last = detail.rpartition("\n")[2]
    return f"{target}: the child {what[cause]} and was replaced" + (f" ({last})." if last else ".")


def _confinement() -> Confinement:
    try:
        return tier.require()
    except SandboxUnavailable as error:
        if not _warned.is_set():
            _warned.set()
            reason = str(error).split(". ")[0]
            sys.stderr.write(f"note: {reason}; files are parsed in a plain child with limits only.\n")
        return Confinement(tier=0)
