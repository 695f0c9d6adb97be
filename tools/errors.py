"""Errors of the tools.

Knows what a caller of a tool may do wrong; knows no exit codes. Most failures of a tool are told to the model
as its result, for the model can act on them; these are for the code that builds or calls tools.

    ToolError
    ├── ToolInputError        the arguments cannot be worked on
    └── ToolUnavailableError  a tool was asked for that lacks its model, store or sandbox
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from langchain_core.tools import ToolException

T = TypeVar("T")


class ToolError(Exception):
    """Root of everything that a tool raises on purpose."""


class ToolInputError(ToolError, ToolException):
    """The arguments of a tool call cannot be worked on; LangChain tells a ToolException to the model."""


class ToolUnavailableError(ToolError):
    """A tool was asked for without what it is made of."""


def as_result(error: Exception) -> str:
    """What a failed call comes back as (LangChain's `handle_tool_error`): a message of status `error`."""
    return f"error: {error}"


@contextmanager
def told_to_the_model(*errors: type[Exception]) -> Iterator[None]:
    """Raise `errors` as ToolInputError: an agent goes on with what was wrong, instead of ending with it."""
    try:
        yield
    except errors as error:
        raise ToolInputError(str(error)) from error


def made_of(part: T, method: str, expected: str) -> T:
    """Return `part`, what a tool is made of, where it has the `method` that the tool calls.

    Raises:
        ToolUnavailableError: it has not; `expected` says what to pass.
    """
    if not callable(getattr(part, method, None)):
        raise ToolUnavailableError(f"expected {expected}, found {part!r}; pass that")
    return part
