"""rag_chain: answers a question from documents, with a citation for every sentence.

The steps are condense, retrieve, judge, and then extract or generate. Whether the documents answer at all is
decided before the first token is shown.
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
from chains.rag.evidence import Answerability, CandidateSentence, Passage, Ranker, judge, to_passages
from chains.rag.generate import CitedSentence, NotInDocuments, extract, generate
from chains.rag.lookup import find_rows
from chains.runnable import generator_chain
from llms.protocols import Scorer, find, writes_well

Mode = Literal["auto", "extractive", "generative"]
NOT_FOUND = "Not in your documents."
NEAREST = 3
"""Number of passages named if the documents do not answer."""

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
    """Return a chain that answers from documents, citing every sentence, or says that they do not answer.

    >>> from langchain_core.documents import Document
    >>> from langchain_core.language_models import FakeListChatModel
    >>> from langchain_core.runnables import RunnableLambda
    >>> hours = Document("The museum opens at nine.", metadata={"source": "museum.txt"})
    >>> retriever = RunnableLambda(lambda question: [hours])
    >>> chain = rag_chain(FakeListChatModel(responses=[]), retriever, mode="extractive")
    >>> answer = chain.invoke("When does the museum open?")
    >>> answer.text, answer.citations[0].source
    ('The museum opens at nine. [1]', 'museum.txt')

    Args:
        llm: Any LangChain chat model or LLM. If it scores (`llms.protocols.Scorer`), it also ranks sentences.
        retriever: Any retriever. A `DocumentStore`'s returns exact offsets and cosines.
        embeddings: Used to rank sentences, and to decide whether the documents answer if the retriever
            returns no cosines. The store's own embeddings fit best.
        mode: "extractive" answers with one to `sentences` verbatim sentences. "generative" lets the model
            write and checks each sentence. "auto" is "generative" unless the model says that it is small
            (`llms.protocols.WritesWell`).
        threshold: Least score of the best passage at which the documents answer. None is the measured
            default.
        sentences: Most sentences in an extractive answer, 1 to 10.

    Returns:
        A Runnable from a question, or {"question", "history"}, to an `Answer`. Its stream yields
        `AnswerDelta`s, then the `Answer`.

    Raises:
        OptionError: An option is out of range or has the wrong type.
    """
    if mode not in get_args(Mode):
        raise OptionError(f"expected mode to be one of {get_args(Mode)}, found {mode!r}: choose one of them")
    require_whole("sentences", sentences, 1, 10)
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise OptionError(
            f"expected threshold to be a number, found {threshold!r}: pass a score, or leave it out"
        )
    pipeline = _RagPipeline(
        llm=require_model(llm),
        retriever=require_retriever(retriever),
        embeddings=require_embeddings(embeddings),
        ranker=Ranker(embeddings=embeddings, scorer=find(llm, Scorer)),
        mode=mode,
        threshold=threshold,
        sentences=sentences,
    )
    return generator_chain(pipeline.run, name="rag_chain", result=Answer)


@dataclass(frozen=True, kw_only=True)
class _RagPipeline:
    llm: Model
    retriever: BaseRetriever
    embeddings: Embeddings | None
    ranker: Ranker
    mode: Mode
    threshold: float | None
    sentences: int

    def run(self, given: RagInput, config: RunnableConfig) -> Iterator[AnswerDelta | Answer]:
        as_asked, history = read_input(given)
        writes = self.mode == "generative" or (self.mode == "auto" and writes_well(self.llm))
        question = condense(as_asked, history, self.llm if writes else None, config)
        passages = to_passages(self.retriever.invoke(question, config))
        judged = judge(question, passages, self.embeddings, self.threshold)
        rows = find_rows(question, passages)
        if rows and not judged.answers:
            judged = Answerability(True, 1.0, "words")
        if judged.answers:
            parts: list[CitedSentence] = []
            method = "generative" if writes else "extractive"
            try:
                for text, citation in self._sentences(question, passages, rows, writes, config):
                    yield AnswerDelta(f"{_joint(parts, text)}{text} [{citation.number}]")
                    parts.append((text, citation))
            except NotInDocuments:
                pass
            if parts:
                yield _grounded(parts, question, method, judged)
                return
        yield AnswerDelta(NOT_FOUND)
        yield Answer(NOT_FOUND, nearest=_nearest(passages), question=question, score=judged.score)

    def _sentences(
        self,
        question: str,
        passages: Sequence[Passage],
        rows: Sequence[CandidateSentence],
        writes: bool,
        config: RunnableConfig,
    ) -> Iterator[CitedSentence]:
        if rows and not writes:
            for number, row in enumerate(rows[: self.sentences], start=1):
                yield row.sentence.flat, row.passage.cite(number, row.sentence.start, row.sentence.end)
            return
        if not writes:
            yield from extract(question, passages, self.ranker, self.sentences)
            return
        nothing = True
        for sentence in generate(question, passages, self.llm, config):
            nothing = False
            yield sentence
        if nothing:
            yield from extract(question, passages, self.ranker, self.sentences)


def _joint(parts: Sequence[CitedSentence], text: str) -> str:
    """Return what separates `text` from the sentence before it: a newline if one is code, else a space."""
    if not parts:
        return ""
    return "\n" if "\n" in text or "\n" in parts[-1][0] else " "


def _grounded(parts: Sequence[CitedSentence], question: str, method: str, judged: Answerability) -> Answer:
    text = ""
    for place, (sentence, citation) in enumerate(parts):
        text += f"{_joint(parts[:place], sentence)}{sentence} [{citation.number}]"
    return Answer(
        text,
        citations=tuple(citation for _, citation in parts),
        grounded=True,
        question=question,
        method=method,
        score=judged.score,
    )


def _nearest(passages: Sequence[Passage]) -> tuple[Citation, ...]:
    best = sorted(passages, key=lambda one: -(one.cosine or 0.0))[:NEAREST]
    return tuple(passage.whole(number) for number, passage in enumerate(best, start=1))
