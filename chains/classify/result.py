"""What classifying returns.

Knows probabilities and how a label is chosen from them; knows no model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["embedder", "examples", "model", "reply"]


@dataclass(frozen=True)
class Classification:
    """The label of a text and how probable each label is.

    `label` is the most probable one, or None below `abstain_below`. `scores` sum to one, or are one
    independent probability a label with `multi_label`, where `labels` holds those at or above one half.
    `method` says what
    scored: the embedder, a regression over embedded examples, the model's log-probabilities, or, for a model
    that cannot score, its reply. `evidence` is the sentence of the text that speaks most for the label, on
    request.
    """

    label: str | None
    scores: dict[str, float] = field(default_factory=dict)
    method: Method = "embedder"
    labels: tuple[str, ...] = ()
    evidence: str | None = None

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
    names: Sequence[str],
    probabilities: NDArray[np.float64],
    method: Method,
    *,
    multi: bool,
    abstain_below: float,
) -> Classification:
    """Make the result of one row of probabilities, in the order of `names`."""
    scores = {name: float(value) for name, value in zip(names, probabilities, strict=True)}
    best = names[int(np.argmax(probabilities))]
    held = scores[best] >= abstain_below
    if not multi:
        return Classification(best if held else None, scores, method, (best,) if held else ())
    chosen = tuple(name for name, value in scores.items() if value >= max(0.5, abstain_below))
    return Classification(best if chosen else None, scores, method, chosen)
