"""The sandbox's error tree, split by who must act.

    SandboxError
    ├── SandboxUnavailable    no tier holds on this machine: whoever runs the machine
    ├── SandboxLimitError     a limit, file name or argument that cannot be meant: the caller (a ValueError)
    ├── SandboxFailed         the sandbox itself broke before the code began: report it with its text
    └── ParserError           a call into a limited child did not come back with a value
        ├── ParserCrashed     the child died or went past a limit; the next call gets a fresh one
        └── ParserRaised      the function in the child raised: `kind` and `reason` are its own words

A program that fails, runs too long or is killed is no error here: that is a `RunResult` with its status.
Nothing in this file knows exit codes.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of everything the sandbox raises on purpose."""


class SandboxUnavailable(SandboxError):
    """Neither bubblewrap nor Landlock works here, so no code is run."""


class SandboxLimitError(SandboxError, ValueError):
    """A limit, a file or an argument was given that the sandbox cannot honour."""


class SandboxFailed(SandboxError):
    """The sandbox broke before the program in it began."""


class ParserError(SandboxError):
    """A call into a limited child did not come back with a value."""


class ParserCrashed(ParserError):
    """The child died or went past a limit; the next call gets a fresh child.

    Attributes:
        cause: "timeout", "cpu", "memory", "processes", "output" or "died".
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class ParserRaised(ParserError):
    """The function in the child raised.

    Attributes:
        kind: name of the exception's class in the child (text: it is never unpickled).
        reason: its message.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind = kind
        self.reason = reason
