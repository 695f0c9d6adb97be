"""Answers from one text that the user named or attached: the same chain that answers from the store.

What a small model writes freely about a file is mostly wrong; a sentence of the file itself is not. Cuts the
text into passages and hands the nearest ones to `rag_chain`. Knows texts and vectors; refuses to know where a
text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from agent.planner.router import signals
from agent.turn.documents import NOT_FOUND, describe_answer
from agent.turn.text_at_hand import TextAtHand

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import Runnable
    from langgraph.runtime import Runtime

    from agent.turn.context import RunContext

PASSAGE_CHARS = 800
"""About 200 tokens, what the embedder's window holds."""
MOST_PASSAGES = 400
"""As many are embedded, some seconds of work; of a longer text those that share most words are."""
THRESHOLD, LATER_THRESHOLD = 0.2, 0.3
"""Cosines from which the text answers: lower than for a store, since it is meant; later turns may mean it."""
_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n(?!\s*\n).*\S)*")
_HEADING = re.compile(r"#{1,6}\s+(\S.*)|(\S.*)\n(?:=+|-+)\s*$")


class TextRetriever(BaseRetriever):
    """The passages of one text that are nearest to a question."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    text: str
    source: str
    embeddings: Any
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        import numpy as np

        found = list(passages(self.text, self.source))
        if len(found) > MOST_PASSAGES:
            words = set(re.findall(r"\w{3,}", query.casefold()))
            found.sort(key=lambda p: -len(words & set(re.findall(r"\w{3,}", p.page_content.casefold()))))
            found = found[:MOST_PASSAGES]
        if not found:
            return []
        rows = np.asarray(self.embeddings.embed_documents([p.page_content for p in found]))
        asked = np.asarray(self.embeddings.embed_query(query))
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(asked)
        cosines = rows @ asked / np.maximum(norms, 1e-12)
        best = [int(row) for row in np.argsort(-cosines)[: self.k]]
        for row in best:
            found[row].metadata["score"] = float(np.clip(cosines[row], -1, 1))
        return [found[row] for row in best]


def passages(text: str, source: str) -> Iterator[Document]:
    """Paragraphs joined up to `PASSAGE_CHARS` characters, never over a heading; a longer one is cut.

    Each carries its offset, its line and the heading it stands under.
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
    """Where paragraphs begin and end; a log has none, and is cut at its lines, or words, or anywhere."""
    for paragraph in _PARAGRAPH.finditer(text):
        start, stop = paragraph.span()
        while stop - start > PASSAGE_CHARS:
            limit = start + PASSAGE_CHARS
            cut = max(text.rfind("\n", start, limit), start)
            cut = cut if cut > start else max(text.rfind(" ", start, limit), start)
            cut = cut if cut > start else limit
            yield start, cut
            start = cut + (cut < limit)  # the line's end, or the space, is nobody's
        if start < stop:
            yield start, stop


def _passage(text: str, begin: int, end: int, source: str, heading: str) -> Document:
    where = {"start": begin, "end": end, "line": text.count("\n", 0, begin) + 1, "heading": heading}
    return Document(page_content=text[begin:end], metadata={"source": source, **where})


@dataclass(frozen=True, kw_only=True)
class TextQuestion:
    """A question, the text that may answer it, and what was said before."""

    question: str
    text: TextAtHand
    history: Sequence[AnyMessage] = ()


class TextAnswers:
    """Answers questions about texts out of their own sentences; `embeddings` is called for the first."""

    def __init__(self, model: Any, embeddings: Callable[[], Embeddings]) -> None:
        self._model, self._embeddings = model, embeddings

    def answer(self, asked: TextQuestion, runtime: Runtime[RunContext]) -> AIMessage | None:
        """The cited answer, streamed; None where the text does not answer, which a question is told."""
        whole: Any = None
        for item in self._chain(asked).stream(_request(asked)):
            whole = self._streamed(item, runtime)
        return _ended(whole, asked, runtime)

    async def aanswer(self, asked: TextQuestion, runtime: Runtime[RunContext]) -> AIMessage | None:
        """As `answer`, for asynchronous runs."""
        whole: Any = None
        async for item in self._chain(asked).astream(_request(asked)):
            whole = self._streamed(item, runtime)
        return _ended(whole, asked, runtime)

    def _chain(self, asked: TextQuestion) -> Runnable[Any, Any]:
        from chains import rag_chain

        embeddings = self._embeddings()
        retriever = TextRetriever(text=asked.text.text, source=asked.text.source, embeddings=embeddings)
        threshold = THRESHOLD if asked.text.fresh else LATER_THRESHOLD
        return rag_chain(self._model, retriever, embeddings=embeddings, threshold=threshold)

    @staticmethod
    def _streamed(item: Any, runtime: Runtime[RunContext]) -> Any:
        if getattr(item, "grounded", None) is None and item.text != NOT_FOUND:
            runtime.stream_writer({"type": "delta", "text": item.text})
        return item


def _request(asked: TextQuestion) -> dict[str, Any]:
    return {"question": asked.question, "history": list(asked.history)}


def _ended(answer: Any, asked: TextQuestion, runtime: Runtime[RunContext]) -> AIMessage | None:
    if answer.grounded:
        return AIMessage(content=answer.text, additional_kwargs={"answer": describe_answer(answer)})
    if asked.text.fresh and signals(asked.question)["question"]:
        text = f"Not found in {asked.text.source}; the model's own answer:"
        runtime.stream_writer({"type": "label", "text": text})
    return None
