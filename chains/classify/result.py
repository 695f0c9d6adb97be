"""What classifying returns.

Knows probabilities and how a label is chosen from them; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chains.classify.labels import SEPARATOR, Label

Method = Literal["embedder", "examples", "model", "reply"]


@dataclass(frozen=True)
class Classification:
    """The label of a text and how probable each label is.

    `label` is the most probable one; below `abstain_below` it is the deepest group of a hierarchy that
    reaches it, or None. It is None too where a model that cannot score named no label in its reply, or
    several. `scores` sum to one, or are one independent probability a label with `multi_label`, where
    `labels` holds those at or above one half; `groups` holds the sums of a hierarchy's groups. `method` says
    what scored: the embedder, a regression over embedded examples, the model's log-probabilities, or, for a
    model that cannot score, its reply. `evidence` is the sentence of the text that speaks most for the label,
    on request.
    """

    label: str | None
    scores: dict[str, float] = field(default_factory=dict)
    method: Method = "embedder"
    labels: tuple[str, ...] = ()
    evidence: str | None = None
    groups: dict[str, float] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """The probability of the most probable label."""
        return max(self.scores.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)


def softmax(values: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities proportional to exp(value / temperature), along the last axis."""
    scaled = np.asarray(values, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def choose(
    labels: Sequence[Label],
    probabilities: NDArray[np.float64],
    method: Method,
    *,
    multi: bool,
    abstain_below: float,
) -> Classification:
    """Make the result of one row of probabilities, in the order of `labels`."""
    scores = {label.name: float(value) for label, value in zip(labels, probabilities, strict=True)}
    best = labels[int(np.argmax(probabilities))].name
    if method == "reply" and np.ptp(probabilities) < 1e-9:
        return Classification(None, scores, method)  # its reply named no label, or several
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
    """Return the deepest group at or above `least`, the most probable of several, or nothing."""
    held = [name for name, value in groups.items() if value >= least]
    return sorted(held, key=lambda name: (-name.count(SEPARATOR), -groups[name]))[:1]
