"""The error tree of the tools.

    ToolError
    ├── ToolInputError        the arguments of a call cannot be used
    └── ToolUnavailableError  a tool was requested without the chain, store or sandbox that it needs

A ToolInputError is reported to the model as the result of the call, because the model can correct its
arguments. Everything else is raised to the code that builds or calls tools.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from langchain_core.tools import ToolException

T = TypeVar("T")


class ToolError(Exception):
    """Root of everything that a tool raises on purpose."""


class ToolInputError(ToolError, ToolException):
    """The arguments of a tool call cannot be used; LangChain reports a ToolException to the model."""


class ToolUnavailableError(ToolError):
    """A tool was requested without the part that it is made of."""


def error_text(error: Exception) -> str:
    """Return the content of a failed call's message, as LangChain's `handle_tool_error` expects it."""
    return f"error: {error}"


@contextmanager
def reported_to_model(*errors: type[Exception]) -> Iterator[None]:
    """Raise `errors` as ToolInputError, so that an agent sees the reason and goes on instead of failing."""
    try:
        yield
    except errors as error:
        raise ToolInputError(str(error)) from error


def require_part(part: T, method: str, expected: str) -> T:
    """Return `part` if it has the `method` that the tool calls.

    Raises:
        ToolUnavailableError: it has not; `expected` says what to pass.
    """
    if not callable(getattr(part, method, None)):
        raise ToolUnavailableError(f"expected {expected}, found {part!r}; pass that")
    return part
