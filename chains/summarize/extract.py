"""Extractive summaries: sentences of a text, chosen to represent it.

Each part is reduced to a `Digest`: its best sentences, their vectors, and the mean vector of all its
sentences. A text of any length takes one pass, and a digest can be cached. `choose` then picks sentences over
all parts, one by one: the next sentence is the one that brings the mean of the chosen ones nearest to the
mean of the text (centroid-based summarization, Rossiello et al. 2017). There is a bonus for an early place,
for stating the purpose of the text and, with a focus, for being near it. A sentence that needs the one before
it is chosen after that one, or with a penalty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.summarize.parts import Part, needs_context, states_purpose
from chains.summarize.result import Style
from chains.text.sentences import Sentence
from chains.text.vectors import Vectors, unit, unit_vectors

KEPT = 12
"""Sentences in the digest of a part."""
EARLY, SPAN = 0.2, 30
"""The bonus for an early place is EARLY * exp(-place / SPAN); places are counted in sentences."""
HEAD = 5.0
"""The mean of a part weighs 1 + HEAD * exp(-place / SPAN), so the beginning of the text counts more."""
FOCUS = 0.6
"""Weight of the cosine to the focus."""
CONTEXT_PENALTY = 0.15
"""Penalty for a sentence that needs the one before it, if that one is not chosen."""
CUE = 0.1
"""Bonus for a sentence that states the purpose of the text."""
_DIRECTIVE = re.compile(r"\.\. |.*\s([=~^-])\1{3,}", re.S)
"""A directive or target of reStructuredText, or a heading that was not separated from the text after it."""
LEAST_WORDS, MOST_WORDS = 5, 60


@dataclass(frozen=True)
class Digest:
    """A part in vectors.

    Attributes:
        places: Indices of its best sentences, k of them.
        vectors: Their unit vectors [k, d].
        mean: Mean vector [d] of all its sentences.
        weight: Weight of the mean, by length.
    """

    places: tuple[int, ...]
    vectors: Vectors
    mean: Vectors
    weight: float

    def to_dict(self) -> dict[str, Any]:
        """Return the digest as JSON data. Rounding to 4 decimals changes cosines by less than 1e-3."""
        return {
            "places": list(self.places),
            "vectors": np.round(self.vectors.astype(np.float64), 4).tolist(),
            "mean": np.round(self.mean.astype(np.float64), 4).tolist(),
            "weight": self.weight,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Digest:
        """Return the digest that `to_dict` turned into `data`."""
        rows = np.asarray(data["vectors"], dtype=np.float32)
        return cls(
            tuple(data["places"]), rows, np.asarray(data["mean"], dtype=np.float32), float(data["weight"])
        )


def usable(sentence: Sentence) -> bool:
    """Return True if a sentence may stand in a summary: prose or a list item of 5 to 60 words, not code."""
    count = len(sentence.text.split())
    return (
        sentence.kind in ("prose", "item", "row")
        and LEAST_WORDS <= count <= MOST_WORDS
        and sum(char.isalpha() or char.isspace() for char in sentence.text) > 0.75 * len(sentence.text)
        and not sentence.text.rstrip().endswith((":", "::"))
        and not _DIRECTIVE.match(sentence.text)
    )


def digest(part: Part, embeddings: Embeddings, *, prose: bool = True) -> Digest:
    """Return the digest of `part`, with the sentences nearest to the mean of its usable ones.

    Args:
        part: A part of the text.
        embeddings: Embed the sentences.
        prose: If False, every sentence except a heading counts as usable.
    """
    places = [
        place
        for place, sentence in enumerate(part.sentences)
        if (usable(sentence) if prose else sentence.kind != "heading")
    ]
    rows = unit_vectors(embeddings, [part.sentences[place].flat for place in places])
    weights = np.asarray(
        [min(40, len(part.sentences[place].text.split())) for place in places], dtype=np.float32
    )
    if not places:
        return Digest((), rows, rows.sum(axis=0), 0.0)
    mean = (rows * weights[:, None]).sum(axis=0) / weights.sum()
    order = sorted(np.argsort(-(rows @ mean), kind="stable")[:KEPT].tolist())
    return Digest(tuple(places[i] for i in order), rows[order], mean, float(weights.sum()))


def choose(
    parts: Sequence[Part], digests: Sequence[Digest], style: Style, focus: Vectors | None
) -> list[tuple[int, int]]:
    """Return (part, sentence) indices of the chosen sentences, in the order of the text."""
    spots = [(number, place) for number, one in enumerate(digests) for place in one.places]
    if not spots:
        return []
    rows = np.concatenate([one.vectors for one in digests if one.places])
    early = np.exp(-_ranks(parts, [(number, 0) for number in range(len(parts))]) / SPAN)
    weighted = [
        one.mean * one.weight * (1 + HEAD * at) for one, at in zip(digests, early, strict=True) if one.places
    ]
    target = unit(np.sum(weighted, axis=0))
    bonus = EARLY * np.exp(-_ranks(parts, spots) / SPAN)
    bonus += [CUE * states_purpose(parts[number].sentences[place].text) for number, place in spots]
    if focus is not None:
        bonus = bonus + FOCUS * (rows @ focus)
    lengths = [len(parts[number].sentences[place].text.split()) for number, place in spots]
    chosen = _greedy(rows, target, bonus, lengths, _dependent(parts, spots), style)
    return sorted(spots[i] for i in chosen)


def _ranks(parts: Sequence[Part], spots: Sequence[tuple[int, int]]) -> Vectors:
    before = np.cumsum([0, *(len(part.sentences) for part in parts)])
    return np.asarray([before[number] + place for number, place in spots], dtype=np.float32)


def _dependent(parts: Sequence[Part], spots: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Map each sentence that needs the one before it to the index of that one, or to -1 if it has none."""
    index = {spot: i for i, spot in enumerate(spots)}
    return {
        i: index.get((number, place - 1), -1)
        for i, (number, place) in enumerate(spots)
        if needs_context(parts[number].sentences[place].text)
    }


def _greedy(
    rows: Vectors,
    target: Vectors,
    bonus: Any,
    lengths: Sequence[int],
    dependent: dict[int, int],
    style: Style,
) -> list[int]:
    chosen: list[int] = []
    total = np.zeros_like(target)
    words = 0
    left = set(range(len(rows)))
    while left and len(chosen) < style.most_sentences:
        near = unit(total[None] + rows) @ target
        # A sentence that repeats a chosen one (cosine above 0.8) loses that cosine from its gain.
        again = (rows @ rows[chosen].T).max(axis=1) if chosen else np.zeros(len(rows))
        gain = near + bonus - np.where(again > 0.8, again, 0.0)
        gain[[i for i, before in dependent.items() if before not in chosen]] -= CONTEXT_PENALTY
        fits = [i for i in left if style.words is None or not chosen or words + lengths[i] <= style.words]
        if not fits:
            break
        best = max(fits, key=lambda i: (float(gain[i]), -i))
        chosen.append(best)
        left.discard(best)
        total = total + rows[best]
        words += lengths[best]
    return chosen
