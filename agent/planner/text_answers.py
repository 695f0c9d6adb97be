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

        embeddings = self._embeddings()
        retriever = TextRetriever(text=text.text, source=text.source, embeddings=embeddings)
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


class TextRetriever(BaseRetriever):
    """Finds the passages of one text that are nearest to a question."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    text: str
    source: str
    embeddings: Any
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        import numpy as np

        from chains.text.vectors import unit, unit_vectors

        found = list(passages(self.text, self.source))
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


def passages(text: str, source: str) -> Iterator[Document]:
    """Yield paragraphs joined up to `PASSAGE_CHARS` characters, each with its offset, line and heading.

    A passage never goes on over a heading, and a longer paragraph is cut.
    """
    begin: int | None = None
    end, heading = 0, ""
    for start, stop in _pieces(text):
        titled = _HEADING.match(text, start, stop)
        if begin is not None and (titled or stop - begin > PASSAGE_CHARS):
            yield _passage(text, begin, end, source, heading)
            begin = None
        if titled:
            heading = (titled[1] or titled[2]).splitlines()[0].strip("# ")
        begin, end = start if begin is None else begin, stop
    if begin is not None:
        yield _passage(text, begin, end, source, heading)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield the bounds of paragraphs; a long one, such as a log, is cut at a line, a word, or anywhere."""
    for paragraph in _PARAGRAPH.finditer(text):
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


def _passage(text: str, begin: int, end: int, source: str, heading: str) -> Document:
    place = {"start": begin, "end": end, "line": text.count("\n", 0, begin) + 1, "heading": heading}
    return Document(page_content=text[begin:end], metadata={"source": source, **place})


def _long_words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.casefold()))
