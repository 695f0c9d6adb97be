"""The evidence for an answer: retrieved passages, whether they answer, and which sentences answer best.

The nouns of this package: a *passage* is a chunk that the retriever returned, with a number; a *candidate
sentence* is a sentence of a passage that may stand in an answer; a *citation* is a span of a passage.

Three steps need no writing model, and follow each other in this file:

1. `to_passages` numbers the retrieved documents and `candidate_sentences` cuts them into sentences.
2. `judge` decides from the best passage whether the documents answer at all.
3. `Ranker` orders the candidate sentences by how well they answer.
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

# 1. Passages and their sentences.


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved chunk. `number` counts from 1 in the order of the retriever."""

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
    label: str = ""

    def cite(self, number: int, start: int, end: int) -> Citation:
        """Return a citation of the characters `start` to `end` of this passage."""
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
            label=self.label,
        )

    def whole(self, number: int) -> Citation:
        """Return a citation of the whole passage."""
        return self.cite(number, 0, len(self.text))


def to_passages(documents: Sequence[Document]) -> list[Passage]:
    """Return the retriever's `documents` as numbered passages, without empty ones.

    The metadata that a `DocumentStore` writes is used (`source`, `heading`, `page`, `line`, `start`,
    `chunk_id`, `cosine`, `title`), and all of it is optional, so any LangChain retriever works. A `score` is
    not read, because other retrievers store distances or BM25 sums under that name. Pages of other retrievers
    are counted from 0, as LangChain's loaders do.

    Raises:
        InputError: The retriever returned something other than Documents.
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
    page, line, start, cosine = (meta.get(name) for name in ("page", "line", "start", "cosine"))
    if isinstance(page, int) and "chunk_id" not in meta:
        page += 1
    return Passage(
        number=number,
        text=document.page_content,
        source=source,
        title=str(meta.get("title") or PurePath(source).stem),
        heading=str(meta.get("heading") or ""),
        page=page if isinstance(page, int) else None,
        start=start if isinstance(start, int) else None,
        chunk_id=str(meta.get("chunk_id") or document.id or f"{source}#{number}"),
        cosine=float(cosine) if isinstance(cosine, int | float) and -1 <= cosine <= 1 else None,
        line=line if isinstance(line, int) else None,
        label=str(meta.get("label") or "") if page is not None else "",
    )


@dataclass(frozen=True, slots=True)
class CandidateSentence:
    """A sentence of a passage that may stand in an answer."""

    passage: Passage
    sentence: Sentence

    @property
    def in_context(self) -> str:
        """The sentence as it is scored: after the items above it, and if it is short after its heading.

        "No." says nothing; "Can I return shoes? No." does.
        """
        sentence = self.sentence
        text = f"{sentence.parent}: {sentence.flat}" if sentence.parent else sentence.flat
        short = len(content_words(sentence.flat)) < SHORT
        heading = self.passage.heading.rpartition(" > ")[2]
        return f"{heading} {text}" if short and heading and not self.is_earlier else text

    @property
    def is_earlier(self) -> bool:
        """Whether it stands in an older message that a mail quotes."""
        return self.passage.heading.rpartition(" > ")[2].startswith(EARLIER_HEADING)

    @property
    def place(self) -> tuple[str, int]:
        """The source and the offset in it, equal for one sentence that is reached through two chunks."""
        base = self.passage.start
        return (
            self.passage.source if base is not None else self.passage.chunk_id,
            (base or 0) + self.sentence.start,
        )


def candidate_sentences(passages: Sequence[Passage]) -> list[CandidateSentence]:
    """Return the sentences of `passages` that could answer, each place in a document once.

    Headings and table rules are left out, because they name things and state nothing. So are sentences of one
    or two letters, unless they stand under a heading: "No." is an answer there. If a chunk border cuts a
    sentence, the longer half is kept.
    """
    best: dict[tuple[str, int], CandidateSentence] = {}
    for passage in passages:
        named = {_bare(part) for part in (passage.title, *passage.heading.split(" > "))}
        for sentence in split_sentences(passage.text):
            letters = sum(char.isalnum() for char in sentence.text)
            if (
                sentence.kind == "heading"
                or letters < (1 if passage.heading else 3)
                or _bare(sentence.text) in named
            ):
                continue
            one = CandidateSentence(passage, sentence)
            known = best.get(one.place)
            if known is None or len(known.sentence.text) < len(sentence.text):
                best[one.place] = one
    return list(best.values())


def _bare(text: str) -> str:
    """Return a heading as it compares: without marks, numbers before it, and case."""
    return re.sub(r"^[\d.()§\s]+|[\W_]+$", "", " ".join(text.split()).strip("# ")).casefold() or " "


# 2. Whether the documents answer.

THRESHOLD = 0.35
"""Least cosine at which the best passage counts as an answer, for all-MiniLM-L6-v2."""

WORDS_THRESHOLD = 0.5
"""Least share of the question's content words in one passage, if there are neither cosines nor embeddings."""


@dataclass(frozen=True, slots=True)
class Answerability:
    """The verdict on whether the documents answer the question, and the score behind it."""

    answers: bool
    score: float
    by: Literal["cosine", "words", "nothing"]


def judge(
    question: str, passages: Sequence[Passage], embeddings: Embeddings | None, threshold: float | None
) -> Answerability:
    """Decide from the best passage whether `passages` answer `question`.

    The cosine of the best passage separates questions on other subjects from answerable ones without an error
    (AUC 1.00 with all-MiniLM-L6-v2, PEPs against messages to a bank). It cannot recognize near misses, which
    are questions on the subject whose answer is missing. No cheap measure was found that can.

    Args:
        question: The question on its own, condensed with its history.
        passages: What the retriever returned. If a passage has a cosine, the best of them decides.
        embeddings: Used if no passage has a cosine. Without them the shared words decide.
        threshold: Overrides the default of the measure that is used.
    """
    if not passages:
        return Answerability(False, 0.0, "nothing")
    known = [passage.cosine for passage in passages if passage.cosine is not None]
    if known:
        return _at_least(max(known), THRESHOLD if threshold is None else threshold, "cosine")
    if embeddings is not None:
        rows = unit_vectors(embeddings, [passage.text for passage in passages])
        best = float((rows @ unit_vectors(embeddings, [question])[0]).max())
        return _at_least(best, THRESHOLD if threshold is None else threshold, "cosine")
    asked = set(content_words(question))
    shared = [len(asked & set(content_words(f"{p.title} {p.heading} {p.text}"))) for p in passages]
    share = max(shared) / len(asked) if asked else 0.0
    return _at_least(share, WORDS_THRESHOLD if threshold is None else threshold, "words")


def _at_least(score: float, threshold: float, by: Literal["cosine", "words"]) -> Answerability:
    return Answerability(score >= threshold, score, by)


# 3. Which sentences answer best.

FEATURES = ("cosine", "coverage", "likelihood", "passage")
BEFORE, AFTER = 0.4, 0.1
"""Share of the scores of the sentences before and after that is added to a candidate's score."""
HEADING = 0.3
"""Weight of the headings' coverage. 0.2 to 0.5 raise the tuning half's first sentence by 0.03 to 0.07."""
NEAR = 0.5
"""Least cosine of a later sentence, as a share of the best one's. The right ones had 0.6 or more."""
UNKNOWN = -0.5
"""Score, in standard deviations, of a neighbour that is not a candidate, and the least that one can add."""
SHORT = 4
"""A sentence with fewer content words is scored together with its heading."""
EARLIER, EARLIER_HEADING = 3.0, "Earlier message"
"""What a sentence of an older, quoted message loses against the newest one, in standard deviations of the
ranking score, and how the heading of such a message begins."""
SAME_SUBJECT = 0.6
"""The newest words are about what an older message says if they have this share of its nearness."""
_MAIL_HEADER = re.compile(r"(?:From|To|Cc|Date|Subject): ")
MOST_SCORED = 24
"""Candidates that the model scores. On the tuning half 16 find as many answers as 24 (0.50 in the first
sentence, 0.77 in the best three) and 12 find fewer (0.50 and 0.73); more than 24 cost seconds."""


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Orders candidate sentences by how well they answer a question.

    Each feature becomes a z-score over the candidates of one question, so the absolute scale of a model does
    not matter, and the z-scores are added. Without `embeddings` or a `scorer` their features are left out.

        cosine      of the question and "title: sentence"
        coverage    idf-weighted share of the question's words in "title sentence"
        likelihood  log p(question | sentence), from the scorer
        passage     log p(question | passage), from the scorer

    An answer often stands in the sentence after the one that names the subject, so a candidate also gets a
    share of its neighbours' scores. The coverage of its title and headings and the `signals` are added last.
    """

    embeddings: Embeddings | None = None
    scorer: Scorer | None = None

    def rank(self, question: str, candidates: Sequence[CandidateSentence]) -> list[CandidateSentence]:
        """Return `candidates` with the best first; ties keep the retriever's order.

        With embeddings, later sentences that are far from the question are left out, because a second
        sentence about something else is worse than none.
        """
        if len(candidates) < 2:
            return list(candidates)
        cheap = self._cheap(question, candidates)
        first = np.asarray(sum(standardized(column) for column in cheap.values()))
        # The model scores the best by the cheap features; the rest keep their order behind those.
        order = np.argsort(-first, kind="stable")
        kept, rest = sorted(order[:MOST_SCORED].tolist()), order[MOST_SCORED:].tolist()
        few = [candidates[i] for i in kept]
        table = {name: column[kept] for name, column in cheap.items()}
        if self.scorer is not None:
            table |= _likelihoods(self.scorer, question, few)
        total = standardized(np.asarray(sum(standardized(table[name]) for name in FEATURES if name in table)))
        headings = _coverages(question, [f"{c.passage.title} {c.passage.heading}" for c in few], candidates)
        total = total + _neighbours(candidates, kept, total) + HEADING * standardized(headings)
        total = total + signals(question, few)
        total = total - EARLIER * _outdated(few, table["cosine"] if "cosine" in table else table["coverage"])
        best = [kept[i] for i in np.argsort(-total, kind="stable")] + rest
        near = cheap.get("cosine", np.ones(len(candidates)))
        first_one = candidates[best[0]]
        if not first_one.is_earlier:  # The newest words answer, so what they answer to is out of date.
            source = first_one.passage.source
            best = [
                i for i in best if not (candidates[i].is_earlier and candidates[i].passage.source == source)
            ]
        return [candidates[i] for i in best if i == best[0] or near[i] >= NEAR * near.max()]

    def _cheap(
        self, question: str, candidates: Sequence[CandidateSentence]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the features that need no language model, one value for each candidate."""
        texts = [f"{one.passage.title} {one.in_context}" for one in candidates]
        table = {"coverage": _coverages(question, texts, candidates)}
        if self.embeddings is not None:
            vectors = unit_vectors(
                self.embeddings, [f"{c.passage.title}: {c.in_context}" for c in candidates]
            )
            table["cosine"] = np.asarray(
                vectors @ unit_vectors(self.embeddings, [question])[0], dtype=np.float64
            )
        return table


def _outdated(candidates: Sequence[CandidateSentence], near: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 for each sentence of an older message if the mail's newest words are about the same, else 0.

    `near` says how close each candidate is to the question. The lines of the mail's header are not its words.
    """
    newest: dict[str, float] = {}
    for one, value in zip(candidates, near, strict=True):
        if not one.is_earlier and not _MAIL_HEADER.match(one.sentence.text):
            source = one.passage.source
            newest[source] = max(newest.get(source, -1.0), float(value))
    return np.asarray(
        [
            float(one.is_earlier and newest.get(one.passage.source, -1.0) >= SAME_SUBJECT * value > 0)
            for one, value in zip(candidates, near, strict=True)
        ]
    )


def _neighbours(
    candidates: Sequence[CandidateSentence], kept: Sequence[int], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each kept candidate gets from the sentences right before and after it in its passage."""
    known = dict(zip(kept, scores, strict=True))
    order = sorted(
        range(len(candidates)), key=lambda i: (candidates[i].passage.number, candidates[i].sentence.start)
    )
    place = {i: at for at, i in enumerate(order)}

    def score(of: int, at: int) -> float:
        if not 0 <= at < len(order) or candidates[order[at]].passage.number != candidates[of].passage.number:
            return UNKNOWN
        if "row" in (candidates[of].sentence.kind, candidates[order[at]].sentence.kind):
            return UNKNOWN  # the row above is about something else
        return max(UNKNOWN, float(known.get(order[at], UNKNOWN)))

    return np.asarray([BEFORE * score(i, place[i] - 1) + AFTER * score(i, place[i] + 1) for i in kept])


def _coverages(
    question: str, texts: Sequence[str], candidates: Sequence[CandidateSentence]
) -> NDArray[np.float64]:
    weights = idf(one.sentence.text for one in candidates)
    asked = content_words(question)
    return np.asarray([coverage(asked, text, weights) for text in texts], dtype=np.float64)


def _likelihoods(
    scorer: Scorer, question: str, candidates: Sequence[CandidateSentence]
) -> dict[str, NDArray[np.float64]]:
    """Return the two features of the scorer; all texts are scored in one batch."""
    passages: dict[int, Passage] = {one.passage.number: one.passage for one in candidates}
    continuation = f" {question.strip()}"
    template = load_prompt("chains.rag", "likelihood")
    contexts = [one.in_context for one in candidates] + [" ".join(p.text.split()) for p in passages.values()]
    requests = [(template.substitute(context=text), [continuation]) for text in contexts]
    scores = [row[0] for row in scorer.score_many(requests)]
    by_passage = dict(zip(passages, scores[len(candidates) :], strict=True))
    return {
        "likelihood": np.asarray(scores[: len(candidates)], dtype=np.float64),
        "passage": np.asarray([by_passage[one.passage.number] for one in candidates], dtype=np.float64),
    }


# Signals: patterns that say whether a sentence can answer. They were tuned on one half of the questions over
# the PEPs. With the neighbours' scores they raise the first sentence from 0.40 to 0.50 right, and the best of
# three from 0.70 to 0.77.

KIND, NEWS, DEAD_END = 0.75, 0.75, 0.7
"""Weights, in standard deviations of the ranking score."""
ENOUGH_NEWS = 4
"""Content words other than the question's that a sentence needs for the full bonus."""
_PERSON = re.compile(r"\b(?:who|whose|whom)\b", re.I)
_QUANTITY = re.compile(
    r"\b(?:when|how (?:many|much|long|often|large|big|old|far)|(?:what|which) (?:year|date|month|day|time|"
    r"version|release|number|size|percentage|python)|since when|until when)\b",
    re.I,
)
_FULL_NAME = re.compile(r"\b[A-Z][\w'-]+(?: [A-Z]\.)? [A-Z][\w'-]+")
_DIGIT = re.compile(r"\d")
_DEAD_END = re.compile(r"(?:[:?]|::)\s*$")


def signals(question: str, candidates: Sequence[CandidateSentence]) -> NDArray[np.float64]:
    """Return the weighted sum of three signals, one value for each candidate.

    The sentence contains the kind of thing that is asked for, it says more than the question does, and it is
    not a dead end.
    """
    kind = expected_pattern(question)
    asked = set(content_words(question))
    holds = np.asarray([float(bool(kind and kind.search(one.sentence.flat))) for one in candidates])
    news = [min(1.0, len(set(content_words(one.sentence.flat)) - asked) / ENOUGH_NEWS) for one in candidates]
    ends = np.asarray(
        [float(one.sentence.kind != "row" and is_dead_end(one.sentence.flat)) for one in candidates]
    )
    total = KIND * (holds - holds.mean()) + NEWS * np.asarray(news) - DEAD_END * ends
    return np.asarray(total, dtype=np.float64)


def expected_pattern(question: str) -> re.Pattern[str] | None:
    """Return what an answering sentence should contain: a name for "who", a digit for "when", or None."""
    if _PERSON.search(question):
        return _FULL_NAME
    return _DIGIT if _QUANTITY.search(question) else None


def is_dead_end(text: str) -> bool:
    """Return True if a sentence only introduces the next one, asks a question, or is a link or address."""
    return bool(_DEAD_END.search(text)) or text.startswith(("_`", "`", ".. ")) or "@" in text
