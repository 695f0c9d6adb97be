"""Answers from one text that the user named or attached, by the chain that answers from the store.

What a small model writes about a file is mostly wrong; a sentence of the file itself is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from agent.planner.signals import signals
from agent.turn.documents import NOT_FOUND, describe_answer

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langgraph.runtime import Runtime

    from agent.turn.context import RunContext
    from agent.turn.messages import TextAtHand
    from chains.rag import Answer

PASSAGE_CHARS = 800
"""About 200 tokens; the embedder's window holds 256."""
MOST_PASSAGES = 400
"""Passages that are embedded, some seconds of work. Of a longer text, those that share most words are."""
THRESHOLD, LATER_THRESHOLD = 0.2, 0.3
"""Cosines from which the text answers. They are lower than for a store, because the text is meant; in a later
turn it is only likely to be meant."""
_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n(?!\s*\n).*\S)*")
_HEADING = re.compile(r"#{1,6}\s+(\S.*)|(\S.*)\n(?:=+|-+)\s*$")


class TextAnswers:
    """Answers questions about a text with the text's own sentences.

    `embeddings` is called for the first question, because loading an embedder takes time.
    """

    def __init__(self, model: Any, embeddings: Callable[[], Embeddings]) -> None:
        self._model, self._embeddings = model, embeddings

    def answer(
        self, question: str, text: TextAtHand, history: Sequence[AnyMessage], runtime: Runtime[RunContext]
    ) -> AIMessage | None:
        """Stream the cited answer and return it, or None, with a label if the text should have answered."""
        from chains import rag_chain

        if (found := _about_log(question, text)) is not None:
            runtime.stream_writer({"type": "delta", "text": found.text})
            return AIMessage(content=found.text, additional_kwargs={"answer": describe_answer(found)})
        embeddings = self._embeddings()
        retriever = TextRetriever(
            text=text.text, source=text.source, sections=text.sections, embeddings=embeddings
        )
        threshold = THRESHOLD if text.fresh else LATER_THRESHOLD
        chain = rag_chain(self._model, retriever, embeddings=embeddings, threshold=threshold)
        answer: Any = None
        for answer in chain.stream({"question": question, "history": list(history)}):
            if getattr(answer, "grounded", None) is None and answer.text != NOT_FOUND:
                runtime.stream_writer({"type": "delta", "text": answer.text})
        if answer.grounded:
            return AIMessage(content=answer.text, additional_kwargs={"answer": describe_answer(answer)})
        if text.fresh and signals(question)["question"]:
            label = f"Not found in {text.source}; the model's own answer:"
            runtime.stream_writer({"type": "label", "text": label})
        return None


def _about_log(question: str, text: TextAtHand) -> Answer | None:
    """Return the answer of the rules for logs, if the text is one and they have one."""
    from agent.planner.log_answers import log_answer
    from chains.text.logs import looks_like_log

    plain = len(text.sections) <= 1
    return (
        log_answer(question, text.text, text.source)
        if plain and looks_like_log(text.text, text.source)
        else None
    )


class TextRetriever(BaseRetriever):
    """Finds the passages of one text that are nearest to a question."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    text: str
    source: str
    embeddings: Any
    sections: Sequence[Sequence[Any]] = ()
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        import numpy as np

        from chains.text.vectors import unit, unit_vectors

        found = list(passages(self.text, self.source, self.sections))
        if len(found) > MOST_PASSAGES:
            words = _long_words(query)
            found.sort(key=lambda passage: -len(words & _long_words(passage.page_content)))
            found = found[:MOST_PASSAGES]
        if not found:
            return []
        rows = unit_vectors(self.embeddings, [passage.page_content for passage in found])
        cosines = rows @ unit(np.asarray(self.embeddings.embed_query(query)))
        best = [int(row) for row in np.argsort(-cosines)[: self.k]]
        for row in best:
            found[row].metadata["score"] = float(np.clip(cosines[row], -1, 1))
        return [found[row] for row in best]


def passages(text: str, source: str, sections: Sequence[Sequence[Any]] = ()) -> Iterator[Document]:
    """Yield paragraphs joined up to `PASSAGE_CHARS` characters, each with its offset, line and heading.

    A passage never goes on over a heading or the end of a section, and a longer paragraph is cut. `sections`
    are (start, end, source, title, heading, page, line); without them the text is one.
    """
    known = sections or [(0, len(text), source, "", "", None, 1)]
    for start, end, name, title, heading, page, line in known:
        about = {"source": name, "page": page, **({"title": title} if title else {})}
        yield from _passages(text, start, min(end, len(text)), heading, line, about)


def _passages(
    text: str, first: int, last: int, heading: str, line: int | None, about: dict[str, Any]
) -> Iterator[Document]:
    begin: int | None = None
    end = first
    at = first
    for start, stop in _pieces(text, first, last):
        titled = _HEADING.match(text, start, stop)
        if begin is not None and (titled or stop - begin > PASSAGE_CHARS):
            line, at = _line(text, line, at, begin)
            yield _passage(text, begin, end, heading, line, about)
            begin = None
        if titled and (own := (titled[1] or titled[2]).splitlines()[0].strip("# ")):
            heading = heading if heading.endswith(own) else own
        begin, end = start if begin is None else begin, stop
    if begin is not None:
        line, at = _line(text, line, at, begin)
        yield _passage(text, begin, end, heading, line, about)


def _line(text: str, line: int | None, at: int, begin: int) -> tuple[int | None, int]:
    """Return the line at `begin`, counted on from the `line` at offset `at`."""
    return (None if line is None else line + text.count("\n", at, begin)), begin


def _pieces(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of paragraphs; a long one, such as a log, is cut at a line, a word, or anywhere."""
    for paragraph in _PARAGRAPH.finditer(text, first, last):
        start, stop = paragraph.span()
        while stop - start > PASSAGE_CHARS:
            limit = start + PASSAGE_CHARS
            cut = max(text.rfind("\n", start, limit), start)
            cut = cut if cut > start else max(text.rfind(" ", start, limit), start)
            cut = cut if cut > start else limit
            yield start, cut
            start = cut + (cut < limit)  # Drop the newline or space at the cut.
        if start < stop:
            yield start, stop


def _passage(
    text: str, begin: int, end: int, heading: str, line: int | None, about: dict[str, Any]
) -> Document:
    place = {"start": begin, "end": end, "line": line, "heading": heading}
    return Document(page_content=text[begin:end], metadata={**about, **place})


def _long_words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.casefold()))
