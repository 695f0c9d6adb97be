"""A text, documents, a file or a folder as parts that follow headings.

Knows headings, sentences and an upper estimate of tokens; knows no model. Every character of the text lies in
one part: a section longer than the limit is cut between sentences, small neighbours without a heading stay
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from chains.errors import EmptyInputError, NotTextError, require_text
from chains.sentences import Sentence, split_sentences
from chains.windows import estimate_tokens

PART_TOKENS = 1500
"""Upper estimate of a part's tokens: two of them and a prompt fit a window of 4,096."""
TEXT_SUFFIXES = frozenset(".md .markdown .txt .rst .text .py .js .ts .java .c .h .cpp .go .rs .log".split())


@dataclass(frozen=True)
class Part:
    """A stretch of one source from `start` on; `sentences` have offsets into `text`."""

    heading: str
    source: str
    start: int
    text: str
    sentences: tuple[Sentence, ...]

    @property
    def end(self) -> int:
        """Where it ends, in characters of the source's text."""
        return self.start + len(self.text)


def read_documents(given: Any) -> list[Document]:
    """Return the documents of a chain's input: a text, Documents, a file or a folder (`pathlib.Path`).

    Raises:
        EmptyInputError: there is no text in it.
        NotTextError: it is no text.
        chains.retrieval.errors.SourceError: a PDF, DOCX or the like that its parser cannot read.
    """
    if isinstance(given, Path):
        files = [given] if given.is_file() else sorted(p for p in given.rglob("*") if _is_text(p))
        found = _read_all(files)
    elif isinstance(given, Document):
        found = [given]
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        found = [one if isinstance(one, Document) else Document(require_text("a text", one)) for one in given]
    else:
        found = [Document(require_text("a text to summarize", given))]
    kept = [document for document in found if document.page_content.strip()]
    if not kept:
        raise EmptyInputError("a text to summarize", given)
    return kept


def _is_text(path: Path) -> bool:
    from chains.retrieval.parsers import kind_of

    known = path.suffix.lower() in TEXT_SUFFIXES or kind_of(path.name) is not None
    return known and path.is_file() and not path.name.startswith(".")


def _read_all(files: Sequence[Path]) -> list[Document]:
    """Read text files here; what is no plain text (PDF, DOCX, ...) by the parsers, in their limited child."""
    from chains.retrieval.parsers import kind_of
    from chains.retrieval.parsing import FileParser

    parser = FileParser()
    found = []
    try:
        for path in files:
            if path.suffix.lower() in TEXT_SUFFIXES or kind_of(path.name) is None:
                text = _read(path)
            else:
                text = parser.parse(str(path), parser.read(str(path))).text
            found.append(Document(text, metadata={"source": str(path)}))
    finally:
        parser.close()
    return found


def _read(path: Path) -> str:
    try:
        return require_text(f"the file {str(path)!r}", path.read_bytes().decode("utf-8-sig") or " ")
    except UnicodeDecodeError as error:
        raise NotTextError(f"the file {str(path)!r} in UTF-8", path.read_bytes()[:40]) from error


def split_parts(documents: Sequence[Document], max_tokens: int = PART_TOKENS) -> list[Part]:
    """Return the parts of all `documents`, in order."""
    return [
        part for number, one in enumerate(documents, 1) for part in _document_parts(one, number, max_tokens)
    ]


def _document_parts(document: Document, number: int, limit: int) -> Iterator[Part]:
    text = document.page_content
    source = str(document.metadata.get("source") or document.id or f"text {number}")
    heading = str(document.metadata.get("heading") or "")
    held: list[Sentence] = []
    start = size = 0
    for sentence in split_sentences(text, max_chars=max(16, min(600, limit))):
        tokens = estimate_tokens(sentence.text)
        opens = sentence.kind == "heading"
        if held and (opens or size + tokens > limit) and any(one.kind != "heading" for one in held):
            yield _part(heading, source, text, start, sentence.start, held)
            held, start, size = [], sentence.start, 0
        if opens:
            heading = sentence.flat.strip("# =*")
        held.append(sentence)
        size += tokens
    if held:
        yield _part(heading, source, text, start, len(text), held)


def _part(heading: str, source: str, text: str, start: int, end: int, held: Sequence[Sentence]) -> Part:
    moved = tuple(Sentence(one.text, one.start - start, one.end - start, one.kind) for one in held)
    return Part(heading, source, start, text[start:end], moved)
