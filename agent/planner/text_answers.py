"""Answers from one text that the user named or attached, by the chain that answers from the store.

What a small model writes about a file is mostly wrong; a sentence of the file itself is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage

from agent.planner.signals import signals
from agent.turn.documents import NOT_FOUND, describe_answer

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langgraph.runtime import Runtime

    from agent.turn.context import RunContext
    from agent.turn.messages import TextAtHand
    from chains.rag import Answer
    from chains.retrieval import DocumentStore
    from chains.retrieval.document import ParsedDocument

THRESHOLD, LATER_THRESHOLD = 0.2, 0.3
"""Cosines from which the text answers. They are lower than for a store, because the text is meant; in a later
turn it is only likely to be meant."""


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
        threshold = THRESHOLD if text.fresh else LATER_THRESHOLD
        answer: Any = None
        with store_of(text, question, embeddings) as store:
            retriever = store.retriever(k=4)
            chain = rag_chain(self._model, retriever, embeddings=embeddings, threshold=threshold)
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


def store_of(text: TextAtHand, question: str, embeddings: Embeddings) -> DocumentStore:
    """Return a store in memory that holds the text; of a long one, the chunks most likely for `question`."""
    from chains.retrieval import DocumentStore, SplitterConfig
    from chains.retrieval.errors import EmptyDocument

    # No sections are merged, so that every sentence is cited under its own heading.
    store = DocumentStore.in_memory(embeddings, splitter=SplitterConfig(max_tokens=200, min_tokens=0))
    with contextlib.suppress(EmptyDocument):
        for source, document in _documents(text):
            store.add_document(source, document, likely_for=question)
    return store


def _documents(text: TextAtHand) -> Iterator[tuple[str, str | ParsedDocument]]:
    """Yield each document in the text under its name; all offsets are those of the whole text."""
    from chains.retrieval.document import Block, ParsedDocument

    if not text.sections:
        yield text.source, text.text
        return
    blocks: dict[tuple[str, str], list[Block]] = {}
    for start, end, name, title, heading, page, line in text.sections:
        place = {} if line is None else {"line": line}
        block = Block(start=start, end=min(end, len(text.text)), heading=heading, page=page, place=place)
        blocks.setdefault((name, title), []).append(block)
    for (name, title), parts in blocks.items():
        yield name, ParsedDocument(text=text.text, title=title, kind="attached", blocks=tuple(parts))
