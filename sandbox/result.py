"""What came out of a run. Data only; everything in it was written by untrusted code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "error", "timeout", "memory", "output", "processes", "files", "killed", "cancelled"]

_ALLOWED_CONTROLS = "\n\t"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a program did, as far as the outside could see.

    Attributes:
        status: "ok" (exit code 0), "error" (any other exit), or the limit that ended it: "timeout" (wall or
            CPU), "memory", "output", "processes", "files"; "killed" by a signal nobody here sent;
            "cancelled".
        exit_code: the program's exit code, minus the signal's number if a signal ended it; None if it was
            ended from outside.
        stdout: what it printed, decoded as UTF-8 with replacement characters, cut at the limit. Raw:
            show it through `printable`.
        stderr: likewise.
        files: path below the work folder -> content, regular files only, without the ones passed in
        unchanged. duration_s: wall-clock seconds from start to end, the sandbox's own start included.
        peak_bytes: largest memory of the whole tree that was seen (sampled every few milliseconds, and the
            largest process's own peak).
        truncated: output or files were left out.
        killed_by: "wall", "cpu", "memory", "output", "processes", "files", "cancel", "signal NAME" or None.
        tier: number of the tier it ran under.
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
        """Whether the program ended by itself with exit code 0."""
        return self.status == "ok"


def printable(text: str) -> str:
    r"""Make untrusted text safe for a terminal: control and format characters become \x1b-like escapes.

    Newline and tab stay; a carriage return before a newline is dropped. Covers C0, C1, DEL, the line and
    paragraph separators and the bidirectional controls (Trojan Source, CVE-2021-42574), which would
    otherwise move the cursor, set the title or the clipboard, or reorder what is read.
    """
    return "".join(_escape(char) for char in text.replace("\r\n", "\n"))


def _escape(char: str) -> str:
    if char in _ALLOWED_CONTROLS or char.isprintable() or _is_space(char):
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_space(char: str) -> bool:
    """Spaces other than ASCII's are not `isprintable`, yet harmless (separators of lines are not)."""
    return char.isspace() and ord(char) > 0xFF and char not in "\u2028\u2029"
