"""What answering over documents returns.

Knows the shape of an answer and how its parts add up in a stream; knows no model and no store.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, overload


@dataclass(frozen=True, slots=True)
class Citation:
    """A span of a document, word for word.

    `start` and `end` are character offsets into the stored text of `source`, or None where the retriever gave
    none; `page` and `line` count from 1, where the retriever tells them. `quote` is the span itself, line
    breaks included.
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


@dataclass(frozen=True)
class Answer:
    """An answer whose every sentence stands on a citation, or an honest "not in your documents".

    `grounded` is False when the documents do not answer; `citations` is then empty and `nearest` names the
    passages that came closest. `question` is what was looked up: a follow-up is condensed with its history.
    `method` is "extractive" (sentences chosen), "generative" (sentences written, then checked) or "none".
    `score` is what the decision rested on: the best passage's cosine to the question, or its share of the
    question's words.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    grounded: bool = False
    nearest: tuple[Citation, ...] = ()
    question: str = ""
    method: str = "none"
    score: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of an answer's text, released once its citation was checked."""

    text: str

    @overload
    def __add__(self, other: AnswerDelta) -> AnswerDelta: ...
    @overload
    def __add__(self, other: Answer) -> Answer: ...
    def __add__(self, other: AnswerDelta | Answer) -> AnswerDelta | Answer:
        """Join pieces; the whole answer, which comes last, replaces them."""
        if isinstance(other, AnswerDelta):
            return AnswerDelta(self.text + other.text)
        return other if isinstance(other, Answer) else NotImplemented
