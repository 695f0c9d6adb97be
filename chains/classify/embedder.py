"""Scores from an embedder: how near a text lies to "This text is about {label}.".

Knows vectors; knows no language model. Cost is one embedding a text, flat in the number of labels. Long texts
are embedded window by window and their vectors averaged, weighted by length, so nothing is cut.

The temperature 0.05 turns cosines of all-MiniLM-L6-v2 into probabilities with an expected calibration error
of 0.04-0.06 on news and on banking intents alike (zero-shot accuracy 0.67 and 0.82). Among more than a dozen
labels it falls: each label adds to what the right one is divided by, and of m labels that a text has nothing
to do with the nearest comes nearer as sqrt(ln m) grows (Derrida's random-energy model, 1981, whose softmax
turns from even to decided at a temperature that falls as 1 / sqrt(ln m)).

Labelled examples: a regression over embedded texts.

Knows vectors and labels; knows no language model. The labels' own sentences count as three more examples
each, so a label without examples still has some; against one each the expected calibration error falls from
0.066 to 0.056 on news and from 0.083 to 0.079 on banking intents, at equal accuracy (8 examples a label, 12
seeds). Method: multinomial logistic regression with an L2 penalty (scikit-learn, lbfgs), C = 100; at C = 10
it is as accurate but underconfident (0.18 and 0.23).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.classify.labels import SEPARATOR, Label, label_key, label_name
from chains.classify.result import softmax
from chains.errors import ExamplesError, excerpt
from chains.text.vectors import Vectors, unit, unit_vectors
from chains.text.windows import windows

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
    return unit(np.asarray(found))


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
        moved = unit(shares.T @ texts / np.maximum(shares.sum(axis=0), 1e-9)[:, None])
        centres = unit((1 - HOLD) * moved + HOLD * labels)
    return zero_shot(texts, centres, multi=False)


C = 100.0
LABEL_WEIGHT = 3.0
Examples = Mapping[str, Sequence[str]] | Iterable[tuple[str, str]]
"""label -> texts, or pairs of a text and its label."""


def read_examples(given: Examples, labels: Sequence[Label]) -> list[tuple[str, int]]:
    """Return pairs of a text and the place of its label.

    Raises:
        ExamplesError: an example is no pair, names no known label, or is empty.
    """
    places = _places(labels)
    found: list[tuple[str, int]] = []
    for text, told in _pairs(given):
        name = label_name(told)
        place = places.get(label_key(name)) if isinstance(name, str) else None
        if place is None:
            names = [label.name for label in labels[:10]]
            raise ExamplesError(
                f"expected examples of the labels {names!r}, found {excerpt(name)}: add that label or "
                f"remove its examples (label paths are joined with {SEPARATOR!r})"
            )
        if not isinstance(text, str) or not text.strip():
            raise ExamplesError(
                f"expected a text for each example, found {excerpt(text)} under {name!r}: remove it"
            )
        found.append((text, place))
    return found


def _places(labels: Sequence[Label]) -> dict[str, int]:
    """Return the place of each label by its key, and by its last name where no other label has that."""
    last = [label_key(label.path[-1]) for label in labels]
    alone = {key: place for place, key in enumerate(last) if last.count(key) == 1}
    return alone | {label_key(label.name): place for place, label in enumerate(labels)}


def _pairs(given: Any) -> list[tuple[Any, Any]]:
    """Return pairs of a text and a label, of whatever kind they are."""
    if isinstance(given, Mapping):
        # A text by itself would be taken letter by letter.
        several = {name: [texts] if isinstance(texts, str) else texts for name, texts in given.items()}
        return [(text, name) for name, texts in several.items() for text in texts]
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        pairs = list(given)
        wrong = [one for one in pairs if isinstance(one, str | bytes) or not _is_pair(one)]
        if not wrong:
            return pairs
        given = wrong[0]
    raise ExamplesError(
        f"expected examples as label -> texts, or as pairs of a text and its label, found {excerpt(given)}: "
        'pass for example {"spam": ["You have won!"]}'
    )


def _is_pair(one: Any) -> bool:
    return isinstance(one, Sequence) and len(one) == 2


class Regression:
    """A fitted regression; `predict` gives probabilities in the order of the labels."""

    def __init__(self, texts: Vectors, places: Sequence[int], labels: Vectors) -> None:
        """Fit on the example vectors [k, d], their labels' places, and the label sentences [m, d]."""
        from sklearn.linear_model import LogisticRegression

        rows = np.concatenate([texts, labels]) if len(texts) else labels
        marks = np.asarray([*places, *range(len(labels))])
        weights = np.repeat([1.0, LABEL_WEIGHT], [len(texts), len(labels)])
        self._fitted: Any = LogisticRegression(C=C, max_iter=2000).fit(rows, marks, sample_weight=weights)

    def predict(self, texts: Vectors) -> NDArray[np.float64]:
        """Return probabilities [n, m] of the texts' vectors."""
        return np.asarray(self._fitted.predict_proba(texts), dtype=np.float64)
