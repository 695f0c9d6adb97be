"""What every chain checks of what it is made with: models, embeddings, numbers.

Knows what must be callable and in which range a number lies; knows no task. A chain is made once and run
often, so what is wrong with it is said when it is made.
"""

from __future__ import annotations

from typing import TypeVar

from chains.errors import OptionError, shown

T = TypeVar("T")


def require_model(llm: T, name: str = "llm") -> T:
    """Return `llm` where it is a LangChain model, or another Runnable.

    Raises:
        OptionError: it cannot be invoked: the name of a model, or none.
    """
    if not callable(getattr(llm, "invoke", None)):
        raise OptionError(f"expected {name} to be a LangChain model, found {shown(llm)}: pass ChatLocal()")
    return llm


def require_retriever(retriever: T) -> T:
    """Return `retriever` where it is a LangChain retriever, or another Runnable from a question to documents.

    Raises:
        OptionError: it cannot be invoked: a vector store, a list of documents, or none.
    """
    if callable(getattr(retriever, "invoke", None)):
        return retriever
    store = callable(getattr(retriever, "as_retriever", None))
    way = "pass its as_retriever()" if store else "pass DocumentStore(path).retriever()"
    raise OptionError(f"expected retriever to be a LangChain retriever, found {shown(retriever)}: {way}")


def require_embeddings(embeddings: T) -> T:
    """Return `embeddings` where they embed documents, or where there are none.

    Raises:
        OptionError: they do not: the name of a model, or one model for another.
    """
    if embeddings is not None and not callable(getattr(embeddings, "embed_documents", None)):
        raise OptionError(
            f"expected embeddings= to be LangChain Embeddings, found {shown(embeddings)}: pass those of the "
            "store, or default_embeddings() of chains.retrieval"
        )
    return embeddings


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Check that an option is a whole number from `least` to `most`.

    Raises:
        OptionError: it is none, or lies outside.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise OptionError(
            f"expected {name} to be {least} to {most}, found {shown(value)}: pass a number in that range"
        )


def require_share(name: str, value: object) -> None:
    """Check that an option is a number from 0 to 1.

    Raises:
        OptionError: it is none, or lies outside.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise OptionError(f"expected {name} to be 0 to 1, found {shown(value)}: pass a probability")
