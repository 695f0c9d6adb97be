"""A pseudo-terminal that runs a program, so that tests can type and read as a person does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence

PROMPT = "\x1b[?2004h"
"""prompt_toolkit switches bracketed paste on when it waits for a line."""


class Terminal:
    """A running program. `seen` is everything that it has written."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 80) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                # A background job of a shell ignores Ctrl-C, and so would the programs that it starts.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                os.execvpe(command[0], list(command), dict(env))
            finally:
                os._exit(127)
        self._bytes = b""
        self._read_to = 0

    @property
    def seen(self) -> str:
        return self._bytes.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The written text without terminal codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.seen)

    def type(self, text: str) -> None:
        data = text.encode()
        while data:  # the terminal's buffer has 4 KiB, so the program has to read in between
            data = data[os.write(self._fd, data[:512]) :]
            self._pump(0)

    def line(self, text: str) -> None:
        """Wait for the prompt, then type a line."""
        self.expect(PROMPT)
        self.type(text + "\r")

    def expect(self, text: str, timeout: float = 60) -> None:
        """Wait for this text in what follows the last expected text."""
        wanted, end = text.encode(), time.monotonic() + timeout
        while (found := self._bytes.find(wanted, self._read_to)) < 0:
            alive = self._pump(0.1)
            if not alive and self._bytes.find(wanted, self._read_to) < 0:
                raise AssertionError(f"the program ended before {text!r}:\n{self.text}")
            if time.monotonic() > end:
                raise AssertionError(f"no {text!r} within {timeout} s:\n{self.text}")
        self._read_to = found + len(wanted)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end of the program; return its exit code."""
        end = time.monotonic() + timeout
        while self._pump(0.1):
            if time.monotonic() > end:
                os.kill(self.pid, 9)
                raise AssertionError(f"the program did not end:\n{self.text}")
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _pump(self, timeout: float) -> bool:
        """Read what the program has written; return False after it has ended."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        if b"\x1b[6n" in data:
            os.write(
                self._fd, b"\x1b[1;1R"
            )  # the answer of a terminal that is asked for the cursor's position
        self._bytes += data
        return bool(data)
