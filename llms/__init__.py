"""Weights -> tokens -> LangChain models.

This package knows nothing of documents, tools or command lines. Importing it imports neither torch nor
transformers: every public name below is resolved on first use.
"""

import lazy_loader

__all__ = [
    "ChatLocal",
    "ChatMistralNF4",
    "LLMError",
    "LocalLLM",
    "MistralNF4",
    "Scorer",
    "diagnose",
    "find_scorer",
    "models",
    "unload_all",
]
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
