"""Runs one program in a sandbox and reports what it did."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

from sandbox import tier
from sandbox.child import Child
from sandbox.errors import SandboxLimitError
from sandbox.limits import Limits
from sandbox.program import Program, content_of, program_of
from sandbox.result import RunResult
from sandbox.supervise import Supervision, result


class Sandbox:
    """A place to run Python programs that nobody vouches for.

    Holds limits only: every run is a child of its own, and nothing is left of it. Safe to use from several
    threads.

    Args:
        limits: what each run may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        if not isinstance(limits, Limits | None):
            raise SandboxLimitError(f"limits: expected Limits(...), found {limits!r}; pass Limits(wall_s=5).")
        self.limits = limits or Limits()

    def __repr__(self) -> str:
        return f"Sandbox({self.limits!r})"

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
            SandboxLimitError: no text where text is due, a file's name that leaves the folder, or more than
                the limits allow.
            SandboxFailed: the sandbox broke before the program began.
        """
        program = program_of(code, files if files is not None else {}, argv, self.limits)
        return self._run(program, content_of(stdin, "stdin"), threading.Event())

    async def arun(
        self,
        code: str,
        *,
        files: Mapping[str, bytes | str] | None = None,
        stdin: str | bytes = "",
        argv: Sequence[str] = (),
    ) -> RunResult:
        """`run` without blocking the event loop; cancelling the task kills the program before it returns."""
        program = program_of(code, files if files is not None else {}, argv, self.limits)
        given = content_of(stdin, "stdin")
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
            seen = Supervision(child, self.limits, stdin, cancel, started).until_end()
            return result(child, seen, self.limits, time.monotonic() - started)
        finally:
            child.close()
