"""The result of a run, and the report of the stage from which it is read.

Everything here was written by untrusted code. Only the size of a report is believed, and `printable` makes
its text safe to show.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from sandbox import stage
from sandbox.limits import Limits

Status = Literal["ok", "error", "timeout", "memory", "output", "processes", "files", "killed", "cancelled"]

_ALLOWED_CONTROLS = "\n\t"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    r"""What a program did, as seen from outside the sandbox.

    >>> from sandbox import Sandbox
    >>> result = Sandbox().run("print(6 * 7)\nopen('log.txt', 'w').write('done')")
    >>> result.ok, result.stdout, dict(result.files)
    (True, '42\n', {'log.txt': b'done'})

    Attributes:
        status: "ok" (exit code 0), "error" (any other exit code), or the limit that ended the run: "timeout"
            (wall clock or CPU), "memory", "output", "processes" or "files". "killed" means a signal that the
            supervisor did not send, "cancelled" that the caller ended the run.
        exit_code: the program's exit code; the negative signal number if a signal ended it; None if the
            supervisor ended it.
        stdout: what the program printed, decoded as UTF-8 with replacement characters and cut at the limit.
            It is raw: show it through `printable`.
        stderr: the same for standard error.
        files: the regular files left in the work folder, path -> content, except files that were passed in
            and did not change.
        duration_s: wall-clock seconds from start to end, including the start of the sandbox itself.
        peak_bytes: largest memory of the whole tree that was seen (sampled every few milliseconds, combined
            with the largest process's own peak).
        truncated: some output or some files were left out.
        killed_by: "wall", "cpu", "memory", "output", "processes", "files", "cancel", "signal NAME" or None.
        tier: number of the tier that the program ran under.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    duration_s: float = 0.0
    peak_bytes: int = 0
    truncated: bool = False
    killed_by: str | None = None
    tier: int = 1

    @property
    def ok(self) -> bool:
        """True if the program ended by itself with exit code 0."""
        return self.status == "ok"


def printable(text: str) -> str:
    r"""Return untrusted text made safe for a terminal, with control and format characters escaped.

    >>> print(printable("\x1b[31mred"))
    \x1b[31mred

    Newlines and tabs stay; a carriage return before a newline is dropped. The escapes cover C0, C1, DEL, the
    line and paragraph separators and the bidirectional controls (Trojan Source, CVE-2021-42574). Unescaped,
    these could move the cursor, set the title or the clipboard, or reorder the text on screen.
    """
    return "".join(_escape(char) for char in text.replace("\r\n", "\n"))


def _escape(char: str) -> str:
    if char in _ALLOWED_CONTROLS or char.isprintable() or _is_harmless_space(char):
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_harmless_space(char: str) -> bool:
    """Return True for spaces beyond ASCII: `str.isprintable` rejects them. Line separators are not spaces."""
    return char.isspace() and ord(char) > 0xFF and char not in "\u2028\u2029"


@dataclass
class StageReport:
    """The report that the stage left on the result descriptor, after checking.

    Attributes:
        exit_code: the program's exit code; the negative signal number if a signal ended it.
        peak: largest resident set of the program's process in bytes.
        cut: files were left out, or the report is damaged.
        files: path below the work folder -> content.
    """

    exit_code: int = 0
    peak: int = 0
    cut: bool = False
    files: dict[str, bytes] = field(default_factory=dict)


def read_report(data: bytes, limits: Limits) -> StageReport:
    """Return the stage's report; from a damaged or forged one, what could be read, with `cut` set."""
    broken = StageReport(exit_code=1, cut=True)
    if len(data) < stage.HEADER.size:
        return broken
    magic, code, peak, cut, count = stage.HEADER.unpack_from(data)
    if magic != stage.MAGIC:
        return broken
    report = StageReport(exit_code=code, peak=min(peak, 1 << 50), cut=bool(cut))
    at = stage.HEADER.size
    for _ in range(min(count, limits.files)):
        try:
            length, size = stage.ENTRY.unpack_from(data, at)
        except struct.error:
            report.cut = True
            break
        at += stage.ENTRY.size
        name, at = data[at : at + length].decode("utf-8", "surrogateescape"), at + length
        if at + size > len(data) or not is_inside(name):
            report.cut = True
            break
        report.files[name], at = data[at : at + size], at + size
    return report


def is_inside(name: str) -> bool:
    """Return True if a relative path stays below its folder. Links are not resolved: none exist yet."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\0" not in name
        and len(name) < 4096
    )
