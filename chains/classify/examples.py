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

from chains.classify.labels import SEPARATOR, Label
from chains.errors import ExamplesError
from chains.vectors import Vectors

C = 100.0
LABEL_WEIGHT = 3.0
Examples = Mapping[str, Sequence[str]] | Iterable[tuple[str, str]]
"""label -> texts, or pairs of a text and its label."""


def read_examples(given: Examples, labels: Sequence[Label]) -> list[tuple[str, int]]:
    """Return pairs of a text and the place of its label.

    Raises:
        ExamplesError: an example names no known label, or is empty.
    """
    places = {label.name: place for place, label in enumerate(labels)}
    places |= {label.path[-1]: place for place, label in enumerate(labels) if label.path[-1] not in places}
    if isinstance(given, Mapping):
        pairs = [(text, name) for name, texts in given.items() for text in texts]
    else:
        pairs = list(given)
    found: list[tuple[str, int]] = []
    for text, name in pairs:
        if name not in places:
            raise ExamplesError(
                f"expected examples of the labels {list(places)[:10]!r}, found {name!r}: add that label or "
                f"remove its examples (label paths are joined with {SEPARATOR!r})"
            )
        if not isinstance(text, str) or not text.strip():
            raise ExamplesError(f"expected a text for each example, found {text!r} under {name!r}: remove it")
        found.append((text, places[name]))
    return found


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
