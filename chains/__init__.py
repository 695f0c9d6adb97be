"""LangChain Runnables that answer over documents, summarize, classify, complete, and write code that runs.

Models, retrievers and sandboxes are arguments; no chain creates its own. Importing this package imports
neither torch nor a chain, because each public name is resolved on first use.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> from chains import summarize_chain
    >>> chain = summarize_chain(FakeListChatModel(responses=[]), mode="extractive")
    >>> chain.invoke("The bridge over the river Ash was closed on Monday for repairs.").text
    'The bridge over the river Ash was closed on Monday for repairs.'
"""

import lazy_loader

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
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
