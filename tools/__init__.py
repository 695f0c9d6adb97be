"""LangChain tools made of the chains and the sandbox.

Chains, stores and sandboxes are arguments; nothing here builds a model. Importing this package imports
neither torch nor a tool: every public name is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.calculator import calculator_tool
    from tools.chain_tools import classify_tool, search_docs_tool, summarize_tool, write_code_tool
    from tools.default import default_tools
    from tools.errors import ToolError
    from tools.read_file import read_file_tool
    from tools.run_python import run_python_tool

_HOME = {
    "ToolError": "tools.errors",
    "calculator_tool": "tools.calculator",
    "classify_tool": "tools.chain_tools",
    "default_tools": "tools.default",
    "read_file_tool": "tools.read_file",
    "run_python_tool": "tools.run_python",
    "search_docs_tool": "tools.chain_tools",
    "summarize_tool": "tools.chain_tools",
    "write_code_tool": "tools.chain_tools",
}

__all__ = [
    "ToolError",
    "calculator_tool",
    "classify_tool",
    "default_tools",
    "read_file_tool",
    "run_python_tool",
    "search_docs_tool",
    "summarize_tool",
    "write_code_tool",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name the first time the name is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
