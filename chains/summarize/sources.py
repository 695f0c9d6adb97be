"""The inputs of `summarize_chain`, read as Documents: texts, Documents, files, folders, sources of a store.

Files and folders are read as an ingest reads them: every format that a store knows, by the same walker.

    >>> [document.page_content for document in read_documents(["A text.", Document("Another.")])]
    ['A text.', 'Another.']
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from chains.errors import EmptyInputError, NotTextError, has_whole_characters, require_text

if TYPE_CHECKING:
    from chains.retrieval import DocumentStore


@dataclass(frozen=True)
class StoreSource:
    """A document of a store, or all documents under a folder. The stored text is read, not the file."""

    store: DocumentStore
    source: str


SummaryInput = str | Document | Path | StoreSource | Sequence[str | Document | Path | StoreSource]


def read_documents(given: Any, unread: dict[str, Exception] | None = None) -> list[Document]:
    """Return the documents of a chain's input.

    Args:
        given: An input of any kind, or a list of inputs of any kinds.
        unread: Receives the error for each file of a folder that cannot be read, by path. It is raised only
            if no file can be read.

    Raises:
        EmptyInputError: The input contains no text.
        NotTextError: It is binary data, or not a str.
        chains.retrieval.errors.SourceError: A file or source does not exist, or its parser cannot read it.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    failed = unread if unread is not None else {}
    # Blank texts of a list are left out, and so are blank Documents and files of a folder.
    given_ones = [one for one in given if not _blank(one)] if several else [given]
    found = [document for one in given_ones for document in _read_one(one, failed)]
    kept = [document for document in found if document.page_content.strip()]
    if not kept and failed:
        raise next(iter(failed.values()))
    if not kept:
        raise EmptyInputError("a text to summarize", given)
    return kept


def _blank(given: Any) -> bool:
    return isinstance(given, str) and not given.strip()


def _read_one(given: Any, failed: dict[str, Exception]) -> list[Document]:
    if isinstance(given, Document):
        if not has_whole_characters(given.page_content):
            raise NotTextError("a text to summarize", given.page_content)
        return [given]
    if isinstance(given, StoreSource):
        return _stored(given)
    if isinstance(given, Path):
        return list(_files(given, failed))
    return [Document(require_text("a text to summarize", given))]


def _stored(given: StoreSource) -> list[Document]:
    from chains.retrieval.errors import SourceNotFound

    named = {given.source, os.path.realpath(given.source), f"app:{given.source}"}
    folder = os.path.realpath(given.source).rstrip("/") + "/"
    found = [one for one in given.store.sources() if one.path in named or one.path.startswith(folder)]
    if not found:
        raise SourceNotFound(
            f"expected a document or a folder of the store, found {given.source!r}: pass a path of "
            "store.sources()"
        )
    return [
        Document(given.store.text(one.path), metadata={"source": one.path, "heading": one.title})
        for one in found
    ]


def _files(path: Path, failed: dict[str, Exception]) -> Iterator[Document]:
    """Yield the file at `path`, or the readable files under the folder at `path`."""
    from chains.retrieval.errors import SourceError, SourceNotFound
    from chains.retrieval.reading import FileReader

    if not path.exists():
        raise SourceNotFound(f"expected a file or a folder, found nothing at {str(path)!r}: check the path")
    with FileReader() as reader:
        if not path.is_dir():
            found = reader.read(str(path))
            if found.partly:
                failed[str(path)] = SourceError(found.partly)
            yield Document(found.text, metadata={"source": str(path)})
            return
        folder = reader.read_folder(str(path))
        failed.update(folder.unread)
        root = os.path.realpath(path)
        for name, text in folder.texts.items():
            shown = str(path / os.path.relpath(name, root))
            yield Document(text.text, metadata={"source": shown})
