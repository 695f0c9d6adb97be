"""Errors of the tools.

Knows what a caller of a tool may do wrong; knows no exit codes. Most failures of a tool are told to the model
as its result, for the model can act on them; these are for the code that builds or calls tools.

    ToolError
    ├── ToolInputError        the arguments cannot be worked on
    └── ToolUnavailableError  a tool was asked for that lacks its model, store or sandbox
"""

from langchain_core.tools import ToolException


class ToolError(Exception):
    """Root of everything that a tool raises on purpose."""


class ToolInputError(ToolError, ToolException):
    """The arguments of a tool call cannot be worked on; LangChain tells a ToolException to the model."""


class ToolUnavailableError(ToolError):
    """A tool was asked for without what it is made of."""


def as_result(error: Exception) -> str:
    """What a failed call comes back as (LangChain's `handle_tool_error`): a message of status `error`."""
    return f"error: {error}"
