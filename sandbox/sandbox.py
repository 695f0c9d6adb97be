"""Run a program in a sandbox and return what it did."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

from sandbox import tier
from sandbox.child import Child
from sandbox.errors import SandboxLimitError
from sandbox.limits import Limits
from sandbox.program import Program, build_program, to_bytes
from sandbox.result import RunResult
from sandbox.supervise import Supervisor


class Sandbox:
    r"""Runs untrusted Python programs, each in a child of its own that leaves nothing behind.

    >>> box = Sandbox(Limits(wall_s=5))
    >>> box.run("import sys; print(len(open('data.csv').readlines()), sys.argv[1])",
    ...         files={"data.csv": "a,b\n1,2\n"}, argv=["rows"]).stdout
    '2 rows\n'
    >>> box.run("import socket; socket.create_connection(('1.1.1.1', 80))").status
    'error'

    A sandbox holds only limits and can be used by several threads at once.

    Args:
        limits: what each run may use. If None, the defaults of `Limits`.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        if not isinstance(limits, Limits | None):
            raise SandboxLimitError(f"limits: expected Limits(...), found {limits!r}; pass Limits(wall_s=5).")
        self.limits = limits or Limits()

    def __repr__(self) -> str:
        return f"Sandbox({self.limits!r})"

    @staticmethod
    def tier() -> tier.Tier:
        """Return the protection that works on this machine; it is tried once per process."""
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
            files: files that exist when the program starts, path below the work folder -> content.
            stdin: text or bytes on standard input.
            argv: the program's arguments (`sys.argv[1:]`).

        Returns:
            What the program did. A program that fails or is killed gives a result, not an exception.

        Raises:
            SandboxUnavailable: no tier works on this machine; nothing was run.
            SandboxLimitError: an argument has the wrong type, a file name is invalid or leaves the folder, or
                the limits are exceeded.
            SandboxFailed: the sandbox broke before the program began.
        """
        program = build_program(code, files if files is not None else {}, argv, self.limits)
        return self._run(program, to_bytes(stdin, "stdin"), threading.Event())

    async def arun(
        self,
        code: str,
        *,
        files: Mapping[str, bytes | str] | None = None,
        stdin: str | bytes = "",
        argv: Sequence[str] = (),
    ) -> RunResult:
        """Run like `run` without blocking the event loop; cancelling the task kills the program first."""
        program = build_program(code, files if files is not None else {}, argv, self.limits)
        given = to_bytes(stdin, "stdin")
        cancel = threading.Event()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._run, program, given, cancel)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait([work])
            raise

    def _run(self, program: Program, stdin: bytes, cancel: threading.Event) -> RunResult:
        confinement = tier.require()
        started = time.monotonic()
        child = Child(program, self.limits, confinement)
        try:
            return Supervisor(child, self.limits, stdin, cancel, started).run()
        finally:
            child.close()
