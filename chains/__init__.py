"""LangChain Runnables that answer over documents, summarize, classify, complete, and write code that runs.

Models, retrievers and sandboxes are arguments; no chain creates its own. Importing this package imports
neither torch nor a chain, because each public name is resolved on first use.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> from chains import summarize_chain
    >>> chain = summarize_chain(FakeListChatModel(responses=[]), mode="extractive")
    >>> chain.invoke("The bridge over the river Ash was closed on Monday for repairs.").text
    'The bridge over the river Ash was closed on Monday for repairs.'
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
    """Import the module of a public name when the name is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
