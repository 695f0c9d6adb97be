"""Which sentence answers the question: features of each candidate, their sum, and its neighbours'.

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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.prompts import load_prompt
from chains.rag.passages import Candidate, Passage
from chains.rag.signals import signals
from chains.vectors import standardized, unit_vectors
from chains.words import content_words, coverage, idf
from llms.protocols import Scorer

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
