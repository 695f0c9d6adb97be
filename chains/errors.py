"""Errors of the chains.

Knows who must act on a failure; knows no exit codes (`agent` maps classes to them).

    ChainError
    ├── InputError                the text handed in must change
    │   ├── EmptyInputError       nothing but whitespace
    │   ├── NotTextError          binary data, or a type that is no text
    │   └── TableError            a CSV without the column, or with no usable row
    ├── OptionError               an option of the chain must change
    │   ├── LabelsError           no labels, one label, doubled, empty or too many labels
    │   └── ExamplesError         examples that name unknown labels, or hold no text
    └── ModelError                the model must change
        ├── UnusableReplyError    the model's reply holds nothing that the chain may use
        └── ScoringNeededError    the chain was told to score and the model cannot
"""


class ChainError(Exception):
    """Root of everything that a chain raises on purpose."""


class InputError(ChainError):
    """The text handed in cannot be worked on."""


class EmptyInputError(InputError):
    """The text is empty, or nothing but whitespace."""

    def __init__(self, what: str, found: object) -> None:
        """Name `what` was expected, and show what was `found` instead."""
        super().__init__(f"expected {what} with some text in it, found {shown(found)}: pass some text")


class NotTextError(InputError):
    """The input is binary, or of a type that is no text."""

    def __init__(self, what: str, found: object) -> None:
        """Name `what` was expected, and show the head of what was `found`."""
        if isinstance(found, str) and "\x00" not in found:
            mend = "it holds halves of surrogate pairs, so decode it with errors='replace'"
        elif isinstance(found, str | bytes | bytearray):
            mend = "decode it to a string first, or ingest the file into a DocumentStore, which reads formats"
        else:
            mend = "pass a str"
        super().__init__(f"expected {what} as text, found {type(found).__name__} {shown(found)}: {mend}")


class TableError(InputError):
    """A table lacks the column asked for, or holds no usable row."""


class OptionError(ChainError):
    """An option of the chain is out of its range."""


class LabelsError(OptionError):
    """The labels cannot be told apart, are too few or too many."""


class ExamplesError(OptionError):
    """The labelled examples do not fit the labels."""


class ModelError(ChainError):
    """The model handed in cannot do what the chain asks of it."""


class UnusableReplyError(ModelError):
    """The model's reply holds nothing that the chain may use."""


class ScoringNeededError(ModelError):
    """Scoring was demanded of a model that has no `score`."""


def shown(found: object, limit: int = 60) -> str:
    """Return the head of what was found, as messages show it."""
    told = repr(found)
    return told if len(told) <= limit else told[:limit] + "…"


def require_text(what: str, found: object) -> str:
    """Return `found` when it is text with something in it.

    Raises:
        NotTextError: it is no string, holds NUL characters as binary data does, or halves of surrogate pairs,
            which no tokenizer takes.
        EmptyInputError: it is empty or whitespace.
    """
    if not isinstance(found, str) or "\x00" in found or not has_whole_characters(found):
        raise NotTextError(what, found)
    if not found.strip():
        raise EmptyInputError(what, found)
    return found


def has_whole_characters(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8: what `surrogateescape` or cut JSON leaves cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
