"""What the frozen result classes of the chains have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def restore_tuples(record: Any) -> None:
    """Turn the lists in the tuple fields of a frozen dataclass into tuples, in place.

    LangGraph's checkpoints and JSON return a tuple as a list. A class calls this in its `__post_init__`, so
    that a result which was stored equals the one that was made.

        >>> from chains.rag import Answer
        >>> Answer("Not in your documents.", citations=[]).citations
        ()
    """
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, list) and str(field.type).startswith("tuple"):
            object.__setattr__(record, field.name, tuple(value))
