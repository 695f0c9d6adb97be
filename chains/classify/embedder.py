"""Scores from an embedder: how near a text lies to "This text is about {label}.".

Knows vectors; knows no language model. Cost is one embedding a text, flat in the number of labels. Long texts
are embedded window by window and their vectors averaged, weighted by length, so nothing is cut.

The temperature 0.05 turns cosines of all-MiniLM-L6-v2 into probabilities with an expected calibration error
of 0.04-0.06 on news and on banking intents alike (zero-shot accuracy 0.67 and 0.82). Among more than a dozen
labels it falls: each label adds to what the right one is divided by, and of m labels that a text has nothing
to do with the nearest comes nearer as sqrt(ln m) grows (Derrida's random-energy model, 1981, whose softmax
turns from even to decided at a temperature that falls as 1 / sqrt(ln m)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.classify.labels import Label
from chains.classify.result import softmax
from chains.vectors import Vectors, normalized, unit_vectors
from chains.windows import windows

TEMPERATURE = 0.05
FEW = 12
"""Up to so many labels one temperature serves; fitted on 2 to 11."""
MULTI_FLOOR, MULTI_MARGIN = 0.16, 0.08
"""With `multi` a label is as likely as not to apply at this cosine, or so far below the nearest label's if
that is more: what counts as near differs between sets of labels (0.16 for news, 0.51 for banking intents)."""
WINDOW_TOKENS = 250
"""Below MiniLM's 256 with its two marks."""
WINDOWS_AT_ONCE = 256
Progress = Callable[[int, int], None]
"""Called with the windows done and the windows there are."""
HOLD = 0.2
"""How much of each label's own vector stays in its centre."""
TRANSDUCTIVE_LEAST = 100
"""A mixed batch smaller than this gains nothing from its neighbours."""


def text_vectors(embeddings: Embeddings, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
    """Return one unit vector [n, d] a text; a long text is the mean of its windows, told to `progress`."""
    pieces = [windows(text, WINDOW_TOKENS) for text in texts]
    flat = [piece for one in pieces for piece in one]
    parts = []
    for first in range(0, len(flat), WINDOWS_AT_ONCE):
        parts.append(unit_vectors(embeddings, flat[first : first + WINDOWS_AT_ONCE]))
        if progress is not None:
            progress(min(first + WINDOWS_AT_ONCE, len(flat)), len(flat))
    rows = np.concatenate(parts) if parts else unit_vectors(embeddings, [])
    found, at = [], 0
    for one in pieces:
        weights = np.asarray([len(piece) for piece in one], dtype=np.float32)
        found.append((rows[at : at + len(one)] * weights[:, None]).sum(axis=0))
        at += len(one)
    return normalized(np.asarray(found))


def label_vectors(embeddings: Embeddings, labels: Sequence[Label]) -> Vectors:
    """Return the unit vectors [m, d] of the labels' sentences."""
    return unit_vectors(embeddings, [label.sentence for label in labels])


def temperature(labels: int) -> float:
    """Return the temperature for a number of labels.

    Banking intents among near ones that do not occur, tuning half, calibration error with this and with 0.05
    throughout: 41 labels 0.05 and 0.10, 111 labels 0.06 and 0.15, 251 labels 0.06 and 0.23; news among the
    same: 0.08 and 0.09, 0.08 and 0.16, 0.09 and 0.21. Perfect calibration of so few texts shows as 0.05.
    """
    return TEMPERATURE * min(1.0, math.sqrt(math.log(FEW) / math.log(labels)))


def zero_shot(texts: Vectors, labels: Vectors, *, multi: bool) -> NDArray[np.float64]:
    """Return probabilities [n, m]: softmax over labels, or one logistic a label with `multi`."""
    cosines = np.asarray(texts @ labels.T, dtype=np.float64)
    if multi:
        middle = np.maximum(MULTI_FLOOR, cosines.max(axis=1, keepdims=True) - MULTI_MARGIN)
        return np.asarray(1 / (1 + np.exp(-(cosines - middle) / TEMPERATURE)))
    return softmax(cosines, temperature(labels.shape[0]))


def transductive(texts: Vectors, labels: Vectors, rounds: int = 10) -> NDArray[np.float64]:
    """Return probabilities [n, m] after soft k-means over the batch, started from the labels.

    Measured on mixed batches of 200: 0.79 and 0.89 where single texts score 0.70 and 0.86; on a batch of
    which 80 % are of one class it does harm (0.33 for 0.81), so it is opt-in.
    """
    centres = labels
    for _ in range(rounds):
        shares = zero_shot(texts, centres, multi=False)
        moved = normalized(shares.T @ texts / np.maximum(shares.sum(axis=0), 1e-9)[:, None])
        centres = normalized((1 - HOLD) * moved + HOLD * labels)
    return zero_shot(texts, centres, multi=False)
