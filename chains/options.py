"""Checks of the arguments that chains have in common: models, retrievers, embeddings, numbers.

A chain is built once and run often, so it checks its arguments when it is built.
"""

from __future__ import annotations

from typing import TypeVar

from chains.errors import OptionError, excerpt

T = TypeVar("T")


def require_model(llm: T, name: str = "llm") -> T:
    """Return `llm` if it is a LangChain model, or another Runnable.

    Raises:
        OptionError: It has no `invoke`; it may be the name of a model.
    """
    if not callable(getattr(llm, "invoke", None)):
        raise OptionError(f"expected {name} to be a LangChain model, found {excerpt(llm)}: pass ChatLocal()")
    return llm


def require_retriever(retriever: T) -> T:
    """Return `retriever` if it is a LangChain retriever, or another Runnable from a question to documents.

    Raises:
        OptionError: It has no `invoke`; it may be a vector store or a list of documents.
    """
    if callable(getattr(retriever, "invoke", None)):
        return retriever
    is_store = callable(getattr(retriever, "as_retriever", None))
    hint = "pass its as_retriever()" if is_store else "pass DocumentStore(path).retriever()"
    raise OptionError(f"expected retriever to be a LangChain retriever, found {excerpt(retriever)}: {hint}")


def require_embeddings(embeddings: T) -> T:
    """Return `embeddings` if they can embed documents, or are None.

    Raises:
        OptionError: They have no `embed_documents`; they may be the name of a model, or a chat model.
    """
    if embeddings is not None and not callable(getattr(embeddings, "embed_documents", None)):
        raise OptionError(
            f"expected embeddings= to be LangChain Embeddings, found {excerpt(embeddings)}: pass those of "
            "the store, or default_embeddings() of chains.retrieval"
        )
    return embeddings


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Check that the option `name` is a whole number from `least` to `most`.

    Raises:
        OptionError: It is not an int, or is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise OptionError(
            f"expected {name} to be {least} to {most}, found {excerpt(value)}: pass a number in that range"
        )


def require_share(name: str, value: object) -> None:
    """Check that the option `name` is a number from 0 to 1.

    Raises:
        OptionError: It is not a number, or is out of range.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise OptionError(f"expected {name} to be 0 to 1, found {excerpt(value)}: pass a probability")
