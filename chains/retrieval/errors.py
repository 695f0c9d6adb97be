"""What can go wrong between a file on disk and a passage found, split by who must act.

Every message says what was expected, what was found and the next step; none of these loses what was already
stored.

```
RetrievalError
├── SourceError                 the user: this document or path
│   ├── SourceNotFound          no such file or folder
│   ├── SourceUnreadable        permissions, I/O errors
│   ├── NothingToIngest         a folder without a single readable document
│   ├── UnsupportedFormat       a kind of file that no parser reads
│   ├── BinaryDocument          bytes where text was expected
│   ├── EmptyDocument           no text in it (a scanned PDF included)
│   ├── DocumentTooLarge        over the size limit
│   └── DamagedDocument         the parser failed, or hit its limits
├── StoreError                  the user: the store's folder
│   ├── StoreLocked             another process is writing
│   ├── StoreTooNew             written by a newer version
│   ├── StoreDamaged            the manifest cannot be read
│   ├── StoreUnwritable         full disk, read-only folder
│   ├── EmbedderMismatch        made with another embedder
│   ├── SplitterMismatch        made with other chunk settings
│   └── IndexUnavailable        the Chroma server cannot be reached
├── QueryError                  the caller: what was asked
│   ├── EmptyQuery
│   └── BadFilter               a filter or search option that cannot be read
└── EmbedderUnavailable         the administrator: the embedding model is not installed
```
"""

from __future__ import annotations


class RetrievalError(Exception):
    """Anything that went wrong with documents, their store or a search in it."""


class SourceError(RetrievalError):
    """One document or path cannot be used as it is."""


class SourceNotFound(SourceError):
    """The path names nothing."""


class SourceUnreadable(SourceError):
    """The path is there, and reading it failed."""


class NothingToIngest(SourceError):
    """A folder holds no document that a parser reads."""


class UnsupportedFormat(SourceError):
    """No parser reads this kind of file."""


class BinaryDocument(SourceError):
    """The file holds bytes that are no text in any encoding."""


class EmptyDocument(SourceError):
    """The document holds no text."""


class DocumentTooLarge(SourceError):
    """The file is larger than the limit."""


class DamagedDocument(SourceError):
    """The parser of this format failed on the file, or ran into its limits."""


class StoreError(RetrievalError):
    """The store's folder cannot be used as asked."""


class StoreLocked(StoreError):
    """Another process writes to the store; the message names it."""


class StoreTooNew(StoreError):
    """A newer version of this package wrote the store."""


class StoreDamaged(StoreError):
    """The manifest is unreadable."""


class StoreUnwritable(StoreError):
    """The store cannot be written: a full disk, a read-only folder."""


class EmbedderMismatch(StoreError):
    """The store's vectors come from another embedder."""


class SplitterMismatch(StoreError):
    """The store's chunks were cut with other settings."""


class IndexUnavailable(StoreError):
    """The Chroma server that holds the index cannot be reached."""


class QueryError(RetrievalError):
    """The search itself was ill-formed."""


class EmptyQuery(QueryError):
    """The query holds no text."""


class BadFilter(QueryError):
    """A filter or a search option that cannot be read."""


class EmbedderUnavailable(RetrievalError):
    """The embedding model cannot be loaded."""
