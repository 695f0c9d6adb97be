"""Retrieved documents as numbered passages, and spans of them as citations.

Knows the metadata that `DocumentStore` writes (`source`, `heading`, `page`, `start`, `end`, `chunk_id`,
`score`, `title`) and gets along without any of it, so that somebody else's retriever works too; knows no
model.

Whether the documents answer the question, decided before the first token.

Knows cosines and words of passages; asks no model. The best passage's cosine to the question tells questions
about other matters from answerable ones without an error (AUC 1.00 with all-MiniLM-L6-v2, PEPs against
banking messages). It cannot tell near misses, questions on the subject whose answer is missing; nothing cheap
was found that can.

Plain signals of whether a sentence can answer.

They are: the kind of thing asked for is there, it says more than the question does, it is no dead end. Knows
words and patterns; knows no model. Tuned on one half of the questions over the PEPs, where they and the
neighbours' scores (see `rank`) raise the first sentence from 0.40 to 0.50 right and the best of three from
0.70 to 0.77.

Which sentence answers the question: features of each candidate, their sum, and its neighbours'.

Knows sentences, words, vectors and log-probabilities; knows neither prompts for writing nor what an answer
looks like. Features are z-scores over the candidates of one question, so no absolute scale of any model
matters:

    cosine     MiniLM cosine of the question and "title: sentence"
    coverage   idf-weighted share of the question's words in "title sentence"
    likelihood log p(question | sentence), from a model that scores
    passage    log p(question | chunk), from the same model

An answer often stands in the sentence after the one that names the subject, so each candidate also gets a
share of its neighbours' sums, and one of how much of the question its title and headings name; plain signals
(see `signals`) are added last. Without a scorer or embeddings
the features that remain are summed. The model scores only the `MOST_SCORED` best by the cheap features, as
one batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.errors import InputError, excerpt
from chains.prompts import load_prompt
from chains.rag.answer import Citation
from chains.text.sentences import Sentence, split_sentences
from chains.text.vectors import standardized, unit_vectors
from chains.text.words import content_words, coverage, idf
from llms.protocols import Scorer


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
                f"expected the retriever to give Documents, found {excerpt(document)}: wrap each text as "
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


THRESHOLD = 0.35
"""Cosine from which the best passage counts as answering, for all-MiniLM-L6-v2."""

WORDS_THRESHOLD = 0.5
"""Share of the question's content words in one passage, where neither cosines nor embeddings are at hand."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to answer from the documents, and what that rests on."""

    answers: bool
    score: float
    by: Literal["cosine", "words", "nothing"]


def decide(
    question: str, passages: Sequence[Passage], embeddings: Embeddings | None, threshold: float | None
) -> Decision:
    """Decide from the best passage: its stored cosine, else one computed here, else shared words.

    Args:
        question: The question on its own, condensed with its history.
        passages: What the retriever found.
        embeddings: Used where a passage carries no cosine.
        threshold: Overrides the default of whichever measure applies.
    """
    if not passages:
        return Decision(False, 0.0, "nothing")
    known = [passage.cosine for passage in passages if passage.cosine is not None]
    if known:
        return _above(max(known), THRESHOLD if threshold is None else threshold, "cosine")
    if embeddings is not None:
        rows = unit_vectors(embeddings, [passage.text for passage in passages])
        best = float((rows @ unit_vectors(embeddings, [question])[0]).max())
        return _above(best, THRESHOLD if threshold is None else threshold, "cosine")
    asked = set(content_words(question))
    held = [len(asked & set(content_words(f"{p.title} {p.heading} {p.text}"))) for p in passages]
    share = max(held) / len(asked) if asked else 0.0
    return _above(share, WORDS_THRESHOLD if threshold is None else threshold, "words")


def _above(score: float, threshold: float, by: Literal["cosine", "words"]) -> Decision:
    return Decision(score >= threshold, score, by)


_PERSON = re.compile(r"\b(?:who|whose|whom)\b", re.I)
_QUANTITY = re.compile(
    r"\b(?:when|how (?:many|much|long|often|large|big|old|far)|(?:what|which) (?:year|date|month|day|time|"
    r"version|release|number|size|percentage|python)|since when|until when)\b",
    re.I,
)
_FULL_NAME = re.compile(r"\b[A-Z][\w'-]+(?: [A-Z]\.)? [A-Z][\w'-]+")
_DIGIT = re.compile(r"\d")
_DEAD_END = re.compile(r"(?:[:?]|::)\s*$")
KIND, NEWS, DEAD_END = 0.75, 0.75, 0.7
"""Weights, in standard deviations of the ranking score."""
ENOUGH_NEWS = 4
"""Content words beyond the question's that a sentence needs for the full bonus."""


def expected(question: str) -> re.Pattern[str] | None:
    """Return what an answer's sentence should hold: a full name, a digit, or nothing in particular."""
    if _PERSON.search(question):
        return _FULL_NAME
    return _DIGIT if _QUANTITY.search(question) else None


def dead_end(text: str) -> bool:
    """Tell whether a sentence only leads to what follows, asks, or is a link's target or an address."""
    return bool(_DEAD_END.search(text)) or text.startswith(("_`", "`", ".. ")) or "@" in text


def signals(question: str, found: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return the weighted sum of the signals, one value a candidate."""
    kind = expected(question)
    asked = set(content_words(question))
    holds = np.asarray([float(bool(kind and kind.search(one.sentence.flat))) for one in found])
    news = [min(1.0, len(set(content_words(one.sentence.flat)) - asked) / ENOUGH_NEWS) for one in found]
    ends = np.asarray([float(dead_end(one.sentence.flat)) for one in found])
    total = KIND * (holds - holds.mean()) + NEWS * np.asarray(news) - DEAD_END * ends
    return np.asarray(total, dtype=np.float64)


FEATURES = ("cosine", "coverage", "likelihood", "passage")
BEFORE, AFTER = 0.4, 0.1
"""Shares of the score of the sentence before, and after, that a candidate gets."""
HEADING = 0.3
"""Weight of the headings' coverage: 0.2 to 0.5 raise the first sentence on the tuning half by 0.03-0.07."""
NEAR = 0.5
"""Least cosine behind the first sentence, as a share of the best one's; what answered had 0.6 or more."""
UNKNOWN = -0.5
"""Score, in standard deviations, of a neighbour that is no candidate, and the least that one adds."""
MOST_SCORED = 24
"""Fewer lose answers (16: 0.50 and 0.77 as well, 12: 0.50 and 0.73 on the tuning half), more cost seconds."""


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Orders candidates by how well they answer; holds the models that score them, either may be missing."""

    embeddings: Embeddings | None = None
    scorer: Scorer | None = None

    def rank(self, question: str, found: Sequence[Candidate]) -> list[Candidate]:
        """Return `found`, best first; candidates that tie keep the retriever's order.

        Where embeddings tell, those behind the first that are far from the question are left out: a second
        sentence about something else is worse than none.
        """
        if len(found) < 2:
            return list(found)
        cheap = self._cheap(question, found)
        first = np.asarray(sum(standardized(column) for column in cheap.values()))
        # The model is asked about few; the rest keep their order behind them.
        order = np.argsort(-first, kind="stable")
        kept, rest = sorted(order[:MOST_SCORED].tolist()), order[MOST_SCORED:].tolist()
        few = [found[i] for i in kept]
        table = {name: column[kept] for name, column in cheap.items()}
        if self.scorer is not None:
            table |= _likelihoods(self.scorer, question, few)
        total = standardized(np.asarray(sum(standardized(table[name]) for name in FEATURES if name in table)))
        headings = _coverages(question, [f"{c.passage.title} {c.passage.heading}" for c in few], found)
        total = total + _neighbours(found, kept, total) + HEADING * standardized(headings)
        total = total + signals(question, few)
        best = [kept[i] for i in np.argsort(-total, kind="stable")] + rest
        near = cheap.get("cosine", np.ones(len(found)))
        return [found[i] for i in best if i == best[0] or near[i] >= NEAR * near.max()]

    def _cheap(self, question: str, found: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
        """Return the features that need no language model, one value a candidate."""
        texts = [f"{one.passage.title} {one.sentence.flat}" for one in found]
        table = {"coverage": _coverages(question, texts, found)}
        if self.embeddings is not None:
            vectors = unit_vectors(self.embeddings, [f"{c.passage.title}: {c.sentence.flat}" for c in found])
            table["cosine"] = np.asarray(
                vectors @ unit_vectors(self.embeddings, [question])[0], dtype=np.float64
            )
        return table


def _neighbours(
    found: Sequence[Candidate], kept: Sequence[int], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each kept candidate gets from the sentences right before and after it in its passage."""
    known = dict(zip(kept, scores, strict=True))
    order = sorted(range(len(found)), key=lambda i: (found[i].passage.number, found[i].sentence.start))
    place = {i: at for at, i in enumerate(order)}

    def score(of: int, at: int) -> float:
        if not 0 <= at < len(order) or found[order[at]].passage.number != found[of].passage.number:
            return UNKNOWN
        return max(UNKNOWN, float(known.get(order[at], UNKNOWN)))

    return np.asarray([BEFORE * score(i, place[i] - 1) + AFTER * score(i, place[i] + 1) for i in kept])


def _coverages(question: str, texts: Sequence[str], found: Sequence[Candidate]) -> NDArray[np.float64]:
    weights = idf(one.sentence.text for one in found)
    asked = content_words(question)
    return np.asarray([coverage(asked, text, weights) for text in texts], dtype=np.float64)


def _likelihoods(scorer: Scorer, question: str, found: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
    passages: dict[int, Passage] = {one.passage.number: one.passage for one in found}
    asked = f" {question.strip()}"
    template = load_prompt("chains.rag", "likelihood")
    contexts = [one.sentence.flat for one in found] + [" ".join(p.text.split()) for p in passages.values()]
    requests = [(template.substitute(context=text), [asked]) for text in contexts]
    scores = [row[0] for row in scorer.score_many(requests)]
    by_passage = dict(zip(passages, scores[len(found) :], strict=True))
    return {
        "likelihood": np.asarray(scores[: len(found)], dtype=np.float64),
        "passage": np.asarray([by_passage[one.passage.number] for one in found], dtype=np.float64),
    }
