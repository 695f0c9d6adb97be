"""The sandbox's error tree, split by who can act.

    SandboxError
    ├── SandboxUnavailable    no tier works on this machine until its administrator enables one
    ├── SandboxLimitError     an invalid limit, file name or argument; also a ValueError
    ├── SandboxFailed         the sandbox itself broke before the code began; please report it with its text
    └── ParserError           a call into a parser child did not return a value
        ├── ParserCrashed     the child died or exceeded a limit; the next call gets a fresh one
        └── ParserRaised      the function in the child raised; `kind` and `reason` come from it

A program that fails, runs too long or is killed is not an error: `RunResult.status` says so.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of everything the sandbox raises on purpose."""


class SandboxUnavailable(SandboxError):
    """Neither bubblewrap nor Landlock works here, so no code is run."""


class SandboxLimitError(SandboxError, ValueError):
    """A limit, a file or an argument that the sandbox cannot honour."""


class SandboxFailed(SandboxError):
    """The sandbox broke before the program inside it began."""


class ParserError(SandboxError):
    """A call into a parser child did not return a value."""


class ParserCrashed(ParserError):
    """The child died or exceeded a limit; the next call gets a fresh child.

    Attributes:
        cause: "timeout", "cpu", "memory", "processes", "output" or "died".
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class ParserRaised(ParserError):
    """The function in the child raised.

    Attributes:
        kind: name of the exception's class in the child. It is only text; nothing is unpickled.
        reason: message of that exception.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}" if reason else kind)
        self.kind = kind
        self.reason = reason
