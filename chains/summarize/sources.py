"""What can be summarized: a text, Documents, a file, a folder, a source of a store, each read as Documents.

Knows files and stores; knows no parts and no model. Formats other than plain text are read by the parsers, in
their limited child.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from chains.errors import EmptyInputError, NotTextError, require_text

if TYPE_CHECKING:
    from chains.retrieval import DocumentStore

TEXT_SUFFIXES = frozenset(".md .markdown .txt .rst .text .py .js .ts .java .c .h .cpp .go .rs .log".split())


@dataclass(frozen=True)
class StoreSource:
    """A document of a store, or all that lie under a folder: what was stored is read, not the file."""

    store: DocumentStore
    source: str


SummaryInput = str | Document | Path | StoreSource | Sequence[str | Document | Path | StoreSource]


def read_documents(given: Any) -> list[Document]:
    """Return the documents of a chain's input; in a list each entry may be of any kind.

    Raises:
        EmptyInputError: there is no text in it.
        NotTextError: it is no text.
        chains.retrieval.errors.SourceError: no such file or source, or one that its parser cannot read.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    found = [document for one in (given if several else [given]) for document in _read_one(one)]
    kept = [document for document in found if document.page_content.strip()]
    if not kept:
        raise EmptyInputError("a text to summarize", given)
    return kept


def _read_one(given: Any) -> list[Document]:
    if isinstance(given, Document):
        return [given]
    if isinstance(given, StoreSource):
        return _stored(given)
    if isinstance(given, Path):
        return list(_files(given))
    return [Document(require_text("a text to summarize", given))]


def _stored(given: StoreSource) -> list[Document]:
    from chains.retrieval.errors import SourceNotFound

    named = {given.source, os.path.realpath(given.source), f"app:{given.source}"}
    folder = os.path.realpath(given.source).rstrip("/") + "/"
    found = [one for one in given.store.sources() if one.path in named or one.path.startswith(folder)]
    if not found:
        raise SourceNotFound(
            f"expected a document or a folder of the store, found {given.source!r}: see `agent docs list`"
        )
    return [
        Document(given.store.text(one.path), metadata={"source": one.path, "heading": one.title})
        for one in found
    ]


def _files(path: Path) -> Iterator[Document]:
    """Read text files here; what is no plain text (PDF, DOCX, ...) by the parsers, in their limited child."""
    from chains.retrieval.errors import SourceNotFound
    from chains.retrieval.parsers import kind_of
    from chains.retrieval.parsing import FileParser

    if not path.exists():
        raise SourceNotFound(f"expected a file or a folder, found nothing at {str(path)!r}: check the path")
    parser = FileParser()
    try:
        for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if _is_text(one)):
            if file.suffix.lower() in TEXT_SUFFIXES or kind_of(file.name) is None:
                text = _text(file)
            else:
                text = parser.parse(str(file), parser.read(str(file))).text
            yield Document(text, metadata={"source": str(file)})
    finally:
        parser.close()


def _is_text(path: Path) -> bool:
    from chains.retrieval.parsers import kind_of

    known = path.suffix.lower() in TEXT_SUFFIXES or kind_of(path.name) is not None
    return known and path.is_file() and not path.name.startswith(".")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotTextError(f"the file {str(path)!r} in UTF-8", data[:40]) from error
    return require_text(f"the file {str(path)!r}", text) if "\x00" in text else text
