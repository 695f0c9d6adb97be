"""rag_chain: a question in, an answer that stands on citations out.

Knows the order of the steps (condense, retrieve, decide, then choose or write sentences) and the stream they
make; each step lives in a file of its own. Whether the documents answer is decided before the first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig

from chains.errors import OptionError
from chains.options import require_embeddings, require_model, require_retriever, require_whole
from chains.rag.answer import Answer, AnswerDelta, Citation
from chains.rag.condense import condense, read_input
from chains.rag.evidence import Decision, Passage, Ranker, decide, to_passages
from chains.rag.generate import NotInDocuments, Released, extract, generate
from chains.runnable import generator_chain
from llms.protocols import Scorer, find, writes_well

Mode = Literal["auto", "extractive", "generative"]
NOT_FOUND = "Not in your documents."
NEAREST = 3
"""Passages named when the documents do not answer."""

RagInput = str | Mapping[str, Any]
Model = Runnable[LanguageModelInput, Any]


def rag_chain(
    llm: Model,
    retriever: BaseRetriever,
    *,
    embeddings: Embeddings | None = None,
    mode: Mode = "auto",
    threshold: float | None = None,
    sentences: int = 3,
) -> Runnable[RagInput, Answer]:
    """Answer from documents only, every sentence cited, or say that they do not answer.

    Args:
        llm: Any LangChain chat model or LLM. One that scores (`llms.protocols.Scorer`) also ranks sentences.
        retriever: Any retriever; one of `DocumentStore` gives exact offsets and cosines.
        embeddings: Ranks sentences and decides where the retriever gives no cosine; the store's own fits
            best.
        mode: "extractive" answers with one to `sentences` verbatim sentences, "generative" lets the model
            write and checks each sentence; "auto" writes unless the model says that it is small
            (`writes_well` is False).
        threshold: From which score of the best passage the documents answer; None takes the measured default.
        sentences: At most so many sentences in an extractive answer, 1 to 10.

    Returns:
        A Runnable of `str | {"question", "history"}` to `Answer`; its stream yields `AnswerDelta`s, then the
        `Answer`.

    Raises:
        OptionError: an option is out of its range, or of another kind than named here.
    """
    if mode not in get_args(Mode):
        raise OptionError(f"expected mode to be one of {get_args(Mode)}, found {mode!r}: choose one of them")
    require_whole("sentences", sentences, 1, 10)
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise OptionError(
            f"expected threshold to be a number, found {threshold!r}: pass a score, or leave it out"
        )
    steps = _Steps(
        llm=require_model(llm),
        retriever=require_retriever(retriever),
        embeddings=require_embeddings(embeddings),
        ranker=Ranker(embeddings=embeddings, scorer=find(llm, Scorer)),
        mode=mode,
        threshold=threshold,
        sentences=sentences,
    )
    return generator_chain(steps.run, name="rag_chain", result=Answer)


@dataclass(frozen=True, kw_only=True)
class _Steps:
    llm: Model
    retriever: BaseRetriever
    embeddings: Embeddings | None
    ranker: Ranker
    mode: Mode
    threshold: float | None
    sentences: int

    def run(self, given: RagInput, config: RunnableConfig) -> Iterator[AnswerDelta | Answer]:
        asked, history = read_input(given)
        writes = self.mode == "generative" or (self.mode == "auto" and writes_well(self.llm))
        question = condense(asked, history, self.llm if writes else None, config)
        passages = to_passages(self.retriever.invoke(question, config))
        decision = decide(question, passages, self.embeddings, self.threshold)
        if decision.answers:
            parts: list[Released] = []
            method = "generative" if writes else "extractive"
            try:
                for text, citation in self._sentences(question, passages, writes, config):
                    yield AnswerDelta(f"{_joint(parts, text)}{text} [{citation.number}]")
                    parts.append((text, citation))
            except NotInDocuments:
                pass
            if parts:
                yield _grounded(parts, question, method, decision)
                return
        yield AnswerDelta(NOT_FOUND)
        yield Answer(NOT_FOUND, nearest=_nearest(passages), question=question, score=decision.score)

    def _sentences(
        self, question: str, passages: Sequence[Passage], writes: bool, config: RunnableConfig
    ) -> Iterator[Released]:
        if not writes:
            yield from extract(question, passages, self.ranker, self.sentences)
            return
        some = False
        for released in generate(question, passages, self.llm, config):
            some = True
            yield released
        if not some:
            yield from extract(question, passages, self.ranker, self.sentences)


def _joint(parts: Sequence[Released], text: str) -> str:
    """What stands between two sentences: a space, or a line of its own for code."""
    if not parts:
        return ""
    return "\n" if "\n" in text or "\n" in parts[-1][0] else " "


def _grounded(parts: Sequence[Released], question: str, method: str, decision: Decision) -> Answer:
    text = ""
    for place, (sentence, citation) in enumerate(parts):
        text += f"{_joint(parts[:place], sentence)}{sentence} [{citation.number}]"
    return Answer(
        text,
        citations=tuple(citation for _, citation in parts),
        grounded=True,
        question=question,
        method=method,
        score=decision.score,
    )


def _nearest(passages: Sequence[Passage]) -> tuple[Citation, ...]:
    best = sorted(passages, key=lambda one: -(one.cosine or 0.0))[:NEAREST]
    return tuple(passage.whole(number) for number, passage in enumerate(best, start=1))
