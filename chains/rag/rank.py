"""Which sentence answers the question: features of each candidate, and their weighted sum.

Knows sentences, words, vectors and log-probabilities; knows neither prompts for writing nor what an answer
looks like. Features are z-scores over the candidates of one question, so no absolute scale of any model
matters:

    cosine     MiniLM cosine of the question and "title: sentence"
    coverage   idf-weighted share of the question's words in "title sentence"
    likelihood log p(question | sentence), from a model that scores
    passage    log p(question | chunk), from the same model

The sum of these four finds the answer with one sentence in 40 % of cases where the best single feature stays
below (measured with SmolLM2-135M on the PEPs). Without a scorer or embeddings the features that remain are
summed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.prompts import load_prompt
from chains.rag.passages import Candidate, Passage
from chains.vectors import standardized, unit_vectors
from chains.words import content_words, coverage, idf
from llms.protocols import Scorer

WEIGHTS: Mapping[str, float] = {"cosine": 1.0, "coverage": 1.0, "likelihood": 1.0, "passage": 1.0}


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Orders candidates by how well they answer; holds the models that score them, either may be missing."""

    embeddings: Embeddings | None = None
    scorer: Scorer | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)

    def rank(self, question: str, found: Sequence[Candidate]) -> list[Candidate]:
        """Return `found`, best first; candidates that tie keep the retriever's order."""
        if len(found) < 2:
            return list(found)
        table = self.features(question, found)
        total = sum(self.weights.get(name, 0.0) * standardized(column) for name, column in table.items())
        order = np.argsort(-np.asarray(total), kind="stable")
        return [found[i] for i in order]

    def features(self, question: str, found: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
        """Return the raw features, one value a candidate."""
        texts = [f"{one.passage.title} {one.sentence.flat}" for one in found]
        table = {"coverage": _coverages(question, texts, found)}
        if self.embeddings is not None:
            vectors = unit_vectors(self.embeddings, [f"{c.passage.title}: {c.sentence.flat}" for c in found])
            table["cosine"] = np.asarray(
                vectors @ unit_vectors(self.embeddings, [question])[0], dtype=np.float64
            )
        if self.scorer is not None:
            table.update(_likelihoods(self.scorer, question, found))
        return table


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
