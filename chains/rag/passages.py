"""Retrieved documents as numbered passages, and spans of them as citations.

Knows the metadata that `DocumentStore` writes (`source`, `heading`, `page`, `start`, `end`, `chunk_id`,
`score`, `title`) and gets along without any of it, so that somebody else's retriever works too; knows no
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from langchain_core.documents import Document

from chains.errors import InputError, shown
from chains.rag.answer import Citation
from chains.sentences import Sentence, split_sentences


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrieved chunk; `number` counts from 1 in the order of the retriever."""

    number: int
    text: str
    source: str
    title: str
    heading: str
    page: int | None
    start: int | None
    chunk_id: str
    cosine: float | None
    line: int | None = None

    def cite(self, number: int, start: int, end: int) -> Citation:
        """Cite the characters `start` to `end` of this passage under `number`."""
        offset = self.start
        return Citation(
            number=number,
            source=self.source,
            heading=self.heading,
            page=self.page,
            start=None if offset is None else offset + start,
            end=None if offset is None else offset + end,
            quote=self.text[start:end],
            chunk_id=self.chunk_id,
            title=self.title,
            line=None if self.line is None else self.line + self.text.count("\n", 0, start),
        )

    def whole(self, number: int) -> Citation:
        """Cite the passage as a whole."""
        return self.cite(number, 0, len(self.text))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence of a passage that may stand in an answer."""

    passage: Passage
    sentence: Sentence

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands: the same sentence reached through two overlapping chunks has one place."""
        base = self.passage.start
        return (
            self.passage.source if base is not None else self.passage.chunk_id,
            (base or 0) + self.sentence.start,
        )


def to_passages(documents: Sequence[Document]) -> list[Passage]:
    """Number the retriever's `documents`, dropping empty ones.

    Raises:
        InputError: it gave something else than documents.
    """
    for document in documents:
        if not isinstance(document, Document):
            raise InputError(
                f"expected the retriever to give Documents, found {shown(document)}: wrap each text as "
                "Document(page_content=text)"
            )
    kept = [document for document in documents if document.page_content.strip()]
    return [_passage(number, document) for number, document in enumerate(kept, start=1)]


def _passage(number: int, document: Document) -> Passage:
    meta: dict[str, Any] = document.metadata
    source = str(meta.get("source") or document.id or f"document {number}")
    page, start, score = meta.get("page"), meta.get("start"), meta.get("score")
    line = meta.get("line")
    return Passage(
        number=number,
        text=document.page_content,
        source=source,
        title=str(meta.get("title") or PurePath(source).stem),
        heading=str(meta.get("heading") or ""),
        page=page if isinstance(page, int) else None,
        start=start if isinstance(start, int) else None,
        chunk_id=str(meta.get("chunk_id") or document.id or f"{source}#{number}"),
        # Other retrievers put distances or BM25 sums under the same name; out of range it is no cosine.
        cosine=float(score) if isinstance(score, int | float) and -1 <= score <= 1 else None,
        line=line if isinstance(line, int) else None,
    )


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """Return the sentences of `passages` that could answer: prose, list items and code; each place once.

    Headings and table rules name things but state nothing. Of a sentence that a chunk border cuts, the longer
    half seen is kept.
    """
    best: dict[tuple[str, int], Candidate] = {}
    for passage in passages:
        for sentence in split_sentences(passage.text):
            if sentence.kind == "heading" or sum(char.isalnum() for char in sentence.text) < 3:
                continue
            found = Candidate(passage, sentence)
            held = best.get(found.place)
            if held is None or len(held.sentence.text) < len(sentence.text):
                best[found.place] = found
    return list(best.values())
