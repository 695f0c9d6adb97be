"""The result of `rag_chain`: an answer, its citations, and the deltas of its stream.

    >>> AnswerDelta("At nine ") + AnswerDelta("[1].")
    AnswerDelta(text='At nine [1].')

Checkpoints name these classes by their module, so they stay in this one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, overload

from chains.records import restore_tuples


@dataclass(frozen=True, slots=True)
class Citation:
    """A span of a document, quoted verbatim.

    `quote` is the span with its line breaks. `start` and `end` are its character offsets into the stored text
    of `source`; `page` and `line` count from 1. They are None if the retriever does not report them. `label`
    is the page number as it is printed ("iv", "A-3"), if it differs from `page`.
    """

    number: int
    source: str
    heading: str
    page: int | None
    start: int | None
    end: int | None
    quote: str
    chunk_id: str
    title: str = ""
    line: int | None = None
    label: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer in which every sentence has a citation, or "Not in your documents.".

    If the documents do not answer, `grounded` is False, `citations` is empty, and `nearest` holds the
    passages that came closest.

    >>> answer = Answer("Not in your documents.", question="Who was the first mayor?")
    >>> answer.grounded, answer.to_dict()["question"]
    (False, 'Who was the first mayor?')

    Attributes:
        text: The sentences, each followed by the number of its citation, as in "At nine [1]."
        question: The question that was looked up. A follow-up question is condensed with its history.
        method: "extractive" (sentences chosen), "generative" (sentences written, then checked) or "none".
        score: What the decision was based on: the cosine of the best passage to the question, or the share
            of the question's words that the best passage contains.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    grounded: bool = False
    nearest: tuple[Citation, ...] = ()
    question: str = ""
    method: str = "none"
    score: float = 0.0

    def __post_init__(self) -> None:
        """Keep tuples as tuples."""
        restore_tuples(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as dicts and lists, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of an answer's text, sent after its citation was checked."""

    text: str

    @overload
    def __add__(self, other: AnswerDelta) -> AnswerDelta: ...
    @overload
    def __add__(self, other: Answer) -> Answer: ...
    def __add__(self, other: AnswerDelta | Answer) -> AnswerDelta | Answer:
        """Join two pieces; the whole answer, which comes last in a stream, replaces them."""
        if isinstance(other, AnswerDelta):
            return AnswerDelta(self.text + other.text)
        return other if isinstance(other, Answer) else NotImplemented
