"""The errors of document retrieval, arranged by who must act.

Every message says what was expected, what was found and what to do next. None of these errors loses what was
already stored.

```
RetrievalError
├── SourceError                 the user: this document or path
│   ├── SourceNotFound          no such file or folder
│   ├── SourceUnreadable        permissions, I/O errors
│   ├── NothingToIngest         a folder without a single readable document
│   ├── UnsupportedFormat       a kind of file that no parser reads
│   ├── BinaryDocument          bytes instead of text
│   ├── EmptyDocument           a document without text, such as a scanned PDF
│   ├── DocumentTooLarge        over the size limit
│   └── DamagedDocument         the parser failed, or hit its limits
├── StoreError                  the user: the store's folder
│   ├── StoreLocked             another process is writing
│   ├── StoreTooNew             written by a newer version
│   ├── StoreDamaged            the manifest cannot be read
│   ├── StoreUnwritable         full disk, read-only folder
│   ├── StoreGone               the folder was deleted while the store was open
│   ├── StoreClosed             used after close()
│   ├── EmbedderMismatch        made with another embedder
│   ├── SplitterMismatch        made with other chunk settings
│   └── IndexUnavailable        the Chroma server cannot be reached
├── QueryError                  the caller: the query or its options
│   ├── EmptyQuery
│   └── BadFilter               a filter or search option that cannot be read
└── EmbedderUnavailable         the administrator: the embedding model is not installed
```
"""

from __future__ import annotations


class RetrievalError(Exception):
    """The base of all errors about documents, their store and searches in it.

    `hint` is the Python call that the message recommends, if any, exactly as it stands there between
    backticks, so that a command line can replace it by its own command.
    """

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SourceError(RetrievalError):
    """A document or path cannot be used as it is."""


class SourceNotFound(SourceError):
    """The path does not exist."""


class SourceUnreadable(SourceError):
    """The path exists but reading it failed."""


class NothingToIngest(SourceError):
    """A folder contains no document that a parser reads."""


class UnsupportedFormat(SourceError):
    """No parser reads this kind of file."""


class BinaryDocument(SourceError):
    """The file contains bytes that are not text in any encoding."""


class EmptyDocument(SourceError):
    """The document contains no text."""


class DocumentTooLarge(SourceError):
    """The file is larger than the limit."""


class DamagedDocument(SourceError):
    """The parser of this format failed on the file, or exceeded its limits."""


class StoreError(RetrievalError):
    """The store cannot be used as asked."""


class StoreLocked(StoreError):
    """Another process is writing to the store; the message names it."""


class StoreTooNew(StoreError):
    """A newer version of this package wrote the store."""


class StoreDamaged(StoreError):
    """The manifest cannot be read."""


class StoreUnwritable(StoreError):
    """The store cannot be written, because of a full disk or a read-only folder."""


class StoreGone(StoreError):
    """The store's folder was deleted or replaced while the store was open."""


class StoreClosed(StoreError):
    """The store was closed and cannot be used again."""


class EmbedderMismatch(StoreError):
    """The store's vectors come from another embedder."""


class SplitterMismatch(StoreError):
    """The store's chunks were made with other settings."""


class IndexUnavailable(StoreError):
    """The index cannot be written, or the Chroma server that holds it cannot be reached."""


class QueryError(RetrievalError):
    """The query or its options are not valid."""


class EmptyQuery(QueryError):
    """The query contains no text."""


class BadFilter(QueryError):
    """A filter or a search option is not valid."""


class EmbedderUnavailable(RetrievalError):
    """The embedding model cannot be loaded."""


def require_whole_characters(what: str, text: str, error: type[RetrievalError]) -> None:
    """Raise `error` if a text holds half of a surrogate pair, which has no place in UTF-8.

    >>> require_whole_characters("a query", chr(0xD83D), BadFilter)
    Traceback (most recent call last):
    chains.retrieval.errors.BadFilter: expected whole characters in a query, found half of a ...
    """
    try:
        text.encode()
    except UnicodeEncodeError as found:
        raise error(
            f"expected whole characters in {what}, found half of a surrogate pair "
            f"({text[found.start]!r}) at {found.start}; decode the text with errors='replace'"
        ) from found
