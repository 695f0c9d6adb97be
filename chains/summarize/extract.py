"""Sentences chosen to stand for a text.

Knows vectors and positions of sentences; writes nothing. Each part is digested on its own: its best
sentences, their vectors, and the mean vector of all of them, so that a book of any length costs one pass and
what is kept of a part can be cached. The choice over all parts is greedy: the next sentence is the one that
brings the mean of those chosen nearest to the mean of the text (Rossiello et al. 2017, centroid-based
summarization), with a bonus for an early place, for saying what the text is for and, with a focus, for
nearness to it. A sentence that leans on the one before it is chosen behind that one, or pays for standing
alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.summarize.parts import Part, announces, leans
from chains.summarize.result import Style
from chains.text.sentences import Sentence
from chains.text.vectors import Vectors, unit, unit_vectors

KEPT = 12
"""Sentences kept of a part."""
EARLY, SPAN = 0.2, 30
"""Bonus of an early place in the text: exp(-place / SPAN) times EARLY, places counted in sentences."""
HEAD = 5.0
"""How much more the beginning weighs in what the summary is to be near to: 1 + HEAD exp(-place / SPAN)."""
FOCUS = 0.6
"""Weight of nearness to the focus."""
LEANING = 0.15
"""What a sentence pays that leans on one which was not chosen."""
CUE = 0.1
"""Bonus of a sentence that says what the text is for."""
_DIRECTIVE = re.compile(r"\.\. |.*\s([=~^-])\1{3,}", re.S)
"""A directive or target of reStructuredText, or a heading that hangs together with what follows."""
LEAST_WORDS, MOST_WORDS = 5, 60


@dataclass(frozen=True)
class Digest:
    """What is kept of a part: places and vectors [k, d] of its best sentences, its mean [d], its weight."""

    places: tuple[int, ...]
    vectors: Vectors
    mean: Vectors
    weight: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; vectors are rounded to 4 decimals, which changes cosines by less than 1e-3."""
        return {
            "places": list(self.places),
            "vectors": np.round(self.vectors.astype(np.float64), 4).tolist(),
            "mean": np.round(self.mean.astype(np.float64), 4).tolist(),
            "weight": self.weight,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Digest:
        """Make a digest of what `to_dict` gave."""
        rows = np.asarray(told["vectors"], dtype=np.float32)
        return cls(
            tuple(told["places"]), rows, np.asarray(told["mean"], dtype=np.float32), float(told["weight"])
        )


def usable(sentence: Sentence) -> bool:
    """Tell whether a sentence may stand in a summary: prose or an item that says something, no code."""
    count = len(sentence.text.split())
    return (
        sentence.kind in ("prose", "item")
        and LEAST_WORDS <= count <= MOST_WORDS
        and sum(char.isalpha() or char.isspace() for char in sentence.text) > 0.75 * len(sentence.text)
        and not sentence.text.rstrip().endswith((":", "::"))
        and not _DIRECTIVE.match(sentence.text)
    )


def digest(part: Part, embeddings: Embeddings, *, prose: bool = True) -> Digest:
    """Embed the sentences of `part` and keep those nearest to their mean; not `prose`: any but headings."""
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
    """Return (part, sentence) places of the sentences chosen, in the order of the text."""
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
    bonus += [CUE * announces(parts[number].sentences[place].text) for number, place in spots]
    if focus is not None:
        bonus = bonus + FOCUS * (rows @ focus)
    lengths = [len(parts[number].sentences[place].text.split()) for number, place in spots]
    chosen = _greedy(rows, target, bonus, lengths, _leaning(parts, spots), style)
    return sorted(spots[i] for i in chosen)


def _ranks(parts: Sequence[Part], spots: Sequence[tuple[int, int]]) -> Vectors:
    before = np.cumsum([0, *(len(part.sentences) for part in parts)])
    return np.asarray([before[number] + place for number, place in spots], dtype=np.float32)


def _leaning(parts: Sequence[Part], spots: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the indices of sentences that lean, each with the index of the one before it (-1: not kept)."""
    index = {spot: i for i, spot in enumerate(spots)}
    return {
        i: index.get((number, place - 1), -1)
        for i, (number, place) in enumerate(spots)
        if leans(parts[number].sentences[place].text)
    }


def _greedy(
    rows: Vectors,
    target: Vectors,
    bonus: Any,
    lengths: Sequence[int],
    leaning: dict[int, int],
    style: Style,
) -> list[int]:
    chosen: list[int] = []
    total = np.zeros_like(target)
    words = 0
    left = set(range(len(rows)))
    while left and len(chosen) < style.most_sentences:
        near = unit(total[None] + rows) @ target
        # A sentence that says again what one chosen says is worth its novelty only.
        again = (rows @ rows[chosen].T).max(axis=1) if chosen else np.zeros(len(rows))
        gain = near + bonus - np.where(again > 0.8, again, 0.0)
        gain[[i for i, before in leaning.items() if before not in chosen]] -= LEANING
        fits = [i for i in left if style.words is None or not chosen or words + lengths[i] <= style.words]
        if not fits:
            break
        best = max(fits, key=lambda i: (float(gain[i]), -i))
        chosen.append(best)
        left.discard(best)
        total = total + rows[best]
        words += lengths[best]
    return chosen
