"""LangChain tools made of the chains and the sandbox.

Chains, stores and sandboxes are arguments; nothing here builds a model. Importing this package imports
neither torch nor a tool: each name is loaded on first use.
"""

import lazy_loader

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
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
