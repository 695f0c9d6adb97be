"""LangChain Runnables: summarize, classify, complete, answer over documents, write code that runs.

A model, a retriever or a callable is always an argument; nothing here builds one. Importing this package
imports neither torch nor a chain: every public name is resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.classify import Classification, classify_chain
    from chains.code import CodeResult, code_chain
    from chains.complete import complete_chain
    from chains.errors import ChainError
    from chains.rag import Answer, AnswerDelta, Citation, rag_chain
    from chains.summarize import Summary, SummaryDelta, summarize_chain

_HOME = {
    "Answer": "chains.rag",
    "AnswerDelta": "chains.rag",
    "ChainError": "chains.errors",
    "Citation": "chains.rag",
    "Classification": "chains.classify",
    "CodeResult": "chains.code",
    "Summary": "chains.summarize",
    "SummaryDelta": "chains.summarize",
    "classify_chain": "chains.classify",
    "code_chain": "chains.code",
    "complete_chain": "chains.complete",
    "rag_chain": "chains.rag",
    "summarize_chain": "chains.summarize",
}

__all__ = [
    "Answer",
    "AnswerDelta",
    "ChainError",
    "Citation",
    "Classification",
    "CodeResult",
    "Summary",
    "SummaryDelta",
    "classify_chain",
    "code_chain",
    "complete_chain",
    "rag_chain",
    "summarize_chain",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name the first time the name is used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
