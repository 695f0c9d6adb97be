"""The result of `classify_chain`, and how it is made from probabilities.

Checkpoints name `Classification` by its module, so it stays in this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chains.classify.labels import SEPARATOR, ClassLabel
from chains.records import restore_tuples

Method = Literal["embedder", "examples", "model", "reply"]


@dataclass(frozen=True)
class Classification:
    """The label of a text, and the probability of each label.

    >>> found = Classification("news", scores={"news": 0.8, "spam": 0.2})
    >>> found.label, found.confidence
    ('news', 0.8)

    Attributes:
        label: The most probable label. If its probability is less than `abstain_below`, the deepest group of
            a hierarchy that reaches it, or None. Also None if a model that cannot score named no label in its
            reply, or several.
        scores: Probability of each label. They sum to one, except with `multi_label`.
        method: What scored: the embedder, a regression over embedded examples, the log-probabilities of the
            model, or the reply of a model that cannot score.
        labels: With `multi_label`, every label of probability 0.5 or more; else `label` alone, if there is
            one.
        evidence: With `explain`, the sentence of the text that supports the label most.
        groups: Probability of each group of a hierarchy.
    """

    label: str | None
    scores: dict[str, float] = field(default_factory=dict)
    method: Method = "embedder"
    labels: tuple[str, ...] = ()
    evidence: str | None = None
    groups: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep tuples as tuples."""
        restore_tuples(self)

    @property
    def confidence(self) -> float:
        """Probability of the most probable label."""
        return max(self.scores.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the classification as dicts and lists, ready for JSON."""
        return asdict(self)


def softmax(values: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities proportional to exp(value / temperature), along the last axis."""
    scaled = np.asarray(values, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def choose(
    labels: Sequence[ClassLabel],
    probabilities: NDArray[np.float64],
    method: Method,
    *,
    multi: bool,
    abstain_below: float,
) -> Classification:
    """Return the result for one row of probabilities, in the order of `labels`."""
    scores = {label.name: float(value) for label, value in zip(labels, probabilities, strict=True)}
    best = labels[int(np.argmax(probabilities))].name
    if method == "reply" and np.ptp(probabilities) < 1e-9:
        return Classification(None, scores, method)  # the reply named no label, or several
    if not multi:
        groups: dict[str, float] = {}
        for label in labels:
            for group in label.groups:
                groups[group] = groups.get(group, 0.0) + scores[label.name]
        sure = [best] if scores[best] >= abstain_below else _sure(groups, abstain_below)
        return Classification(sure[0] if sure else None, scores, method, tuple(sure), groups=groups)
    chosen = tuple(name for name, value in scores.items() if value >= max(0.5, abstain_below))
    return Classification(best if chosen else None, scores, method, chosen)


def _sure(groups: dict[str, float], least: float) -> list[str]:
    """Return the deepest group of probability `least` or more, the most probable of several, or []."""
    reached = [name for name, value in groups.items() if value >= least]
    return sorted(reached, key=lambda name: (-name.count(SEPARATOR), -groups[name]))[:1]
