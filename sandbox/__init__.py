"""A child process with limits, for untrusted code and untrusted files.

`Sandbox(limits).run(code)` runs a Python program; `ParserPool(target)` calls one function on many untrusted
files in a child that lives on. docs/SECURITY.md says what the sandbox protects against and what it does not.
The package does not depend on LangChain or on a model, and importing it imports nothing heavy: each name is
loaded on first use.
"""

import lazy_loader

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
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
