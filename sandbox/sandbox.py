"""Runs one program in a sandbox and reports what it did."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from sandbox import tier
from sandbox.answer import is_inside
from sandbox.child import Child, Program
from sandbox.errors import SandboxLimitError
from sandbox.limits import Limits
from sandbox.result import RunResult
from sandbox.supervise import Supervision, result

MAIN = "main.py"


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
            raise SandboxLimitError(f"files: {MAIN!r} is the program's own.")
        inside[MAIN] = _bytes(code)
        size = sum(map(len, inside.values()))
        if size > self.limits.disk_bytes or len(inside) > self.limits.files:
            raise SandboxLimitError(
                f"files: expected at most {self.limits.files} files and {self.limits.disk_bytes} bytes, "
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
            seen = Supervision(child, self.limits, stdin, cancel, started).until_end()
            return result(child, seen, self.limits, time.monotonic() - started)
        finally:
            child.close()


def _name(name: str) -> str:
    if not is_inside(name):
        raise SandboxLimitError(
            f"files: expected a relative path below the work folder, found {name!r}; drop '..' and '/'."
        )
    return str(PurePosixPath(name))


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
