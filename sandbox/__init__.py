"""A child process with limits, for code and files nobody vouches for.

`Sandbox(limits).run(code)` runs a Python program; `ParserPool(target)` runs one named function over many
untrusted files in a child that lives on. Knows no LangChain and no model; docs/SECURITY.md says what is
covered. Importing this package imports nothing heavy: names load when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.errors import (
        ParserCrashed,
        ParserError,
        ParserRaised,
        SandboxError,
        SandboxFailed,
        SandboxLimitError,
        SandboxUnavailable,
    )
    from sandbox.limits import Limits
    from sandbox.pool import ParserPool
    from sandbox.result import RunResult, printable
    from sandbox.sandbox import Sandbox
    from sandbox.tier import Tier

__all__ = [
    "Limits",
    "ParserCrashed",
    "ParserError",
    "ParserPool",
    "ParserRaised",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "SandboxFailed",
    "SandboxLimitError",
    "SandboxUnavailable",
    "Tier",
    "printable",
]

_HOME = {
    "Limits": "limits",
    "ParserPool": "pool",
    "RunResult": "result",
    "Sandbox": "sandbox",
    "Tier": "tier",
    "printable": "result",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    value: object = getattr(import_module(f"sandbox.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
