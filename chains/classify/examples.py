"""Labelled examples: a regression over embedded texts.

Knows vectors and labels; knows no language model. The labels' own sentences count as three more examples
each, so a label without examples still has some; against one each the expected calibration error falls from
0.066 to 0.056 on news and from 0.083 to 0.079 on banking intents, at equal accuracy (8 examples a label, 12
seeds). Method: multinomial logistic regression with an L2 penalty (scikit-learn, lbfgs), C = 100; at C = 10
it is as accurate but underconfident (0.18 and 0.23).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chains.classify.labels import SEPARATOR, Label, label_key, label_name
from chains.errors import ExamplesError, shown
from chains.vectors import Vectors

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
                f"expected examples of the labels {names!r}, found {shown(name)}: add that label or "
                f"remove its examples (label paths are joined with {SEPARATOR!r})"
            )
        if not isinstance(text, str) or not text.strip():
            raise ExamplesError(
                f"expected a text for each example, found {shown(text)} under {name!r}: remove it"
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
        f"expected examples as label -> texts, or as pairs of a text and its label, found {shown(given)}: "
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
