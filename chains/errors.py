"""Errors of the chains, grouped by what has to change.

`agent` maps the classes to exit codes.

    ChainError
    ├── InputError                the text handed in must change
    │   ├── EmptyInputError       nothing but white space
    │   ├── NotTextError          binary data, or a type other than str
    │   └── TableError            a CSV without the column, or without a usable row
    ├── OptionError               an option of the chain must change
    │   ├── LabelsError           fewer than two labels, too many, or an empty or repeated one
    │   └── ExamplesError         examples that name unknown labels, or hold no text
    └── ModelCapabilityError      the model must change
        ├── UnusableReplyError    the model's reply holds nothing that the chain may use
        └── ScoringNeededError    method="model" was asked for, and the model cannot score
"""


class ChainError(Exception):
    """Base class of every error that a chain raises on purpose."""


class InputError(ChainError):
    """The input cannot be processed."""


class EmptyInputError(InputError):
    """The text is empty, or nothing but white space."""

    def __init__(self, what: str, found: object) -> None:
        """Make the message from the noun for what was expected and the value that was found."""
        super().__init__(f"expected {what} with some text in it, found {excerpt(found)}: pass some text")


class NotTextError(InputError):
    """The input is binary data, or not a str."""

    def __init__(self, what: str, found: object) -> None:
        """Make the message from the noun for what was expected and the value that was found."""
        if isinstance(found, str) and "\x00" not in found:
            mend = "it holds halves of surrogate pairs, so decode it with errors='replace'"
        elif isinstance(found, str | bytes | bytearray):
            mend = "decode it to a string first, or ingest the file into a DocumentStore, which reads formats"
        else:
            mend = "pass a str"
        super().__init__(f"expected {what} as text, found {type(found).__name__} {excerpt(found)}: {mend}")


class TableError(InputError):
    """A table lacks the column that was asked for, or has no usable row."""


class OptionError(ChainError):
    """An option of the chain is out of range."""


class LabelsError(OptionError):
    """There are too few or too many labels, or two of them are the same."""


class ExamplesError(OptionError):
    """The labelled examples do not fit the labels."""


class ModelCapabilityError(ChainError):
    """The model cannot do what the chain asks of it."""


class UnusableReplyError(ModelCapabilityError):
    """The model's reply holds nothing that the chain may use."""


class ScoringNeededError(ModelCapabilityError):
    """The model must score (`llms.protocols.Scorer`), and cannot."""


def excerpt(value: object, limit: int = 60) -> str:
    """Return the beginning of `repr(value)`, for a message.

    >>> excerpt("a long text", limit=6)
    "'a lon…"
    """
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def require_text(what: str, found: object) -> str:
    """Return `found` if it is a text that is not blank.

    Args:
        what: The noun for it in the message, such as "a question".
        found: What the caller passed.

    Raises:
        NotTextError: It is not a str, contains NUL characters as binary data does, or contains half of a
            surrogate pair, which no tokenizer accepts.
        EmptyInputError: It is empty, or nothing but white space.
    """
    if not isinstance(found, str) or "\x00" in found or not has_whole_characters(found):
        raise NotTextError(what, found)
    if not found.strip():
        raise EmptyInputError(what, found)
    return found


def has_whole_characters(text: str) -> bool:
    """Return False if `text` contains half of a surrogate pair, as `surrogateescape` or cut JSON leaves."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
