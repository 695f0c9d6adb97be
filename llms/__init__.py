"""Weights -> tokens -> LangChain models.

This package knows nothing of documents, tools or command lines. Importing it imports neither torch nor
transformers: every public name below is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llms.chat import ChatLocal, ChatMistralNF4
    from llms.completion import LocalLLM, MistralNF4
    from llms.errors import LLMError
    from llms.protocols import Scorer, find_scorer

__all__ = [
    "ChatLocal",
    "ChatMistralNF4",
    "LLMError",
    "LocalLLM",
    "MistralNF4",
    "Scorer",
    "find_scorer",
]

_HOME = {
    "ChatLocal": "llms.chat",
    "ChatMistralNF4": "llms.chat",
    "LLMError": "llms.errors",
    "LocalLLM": "llms.completion",
    "MistralNF4": "llms.completion",
    "Scorer": "llms.protocols",
    "find_scorer": "llms.protocols",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name the first time the name is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
