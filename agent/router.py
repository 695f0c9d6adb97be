"""Which route a message takes where the model is too small to plan: one scored decision, with its reason.

The weights are learned from described examples (`agent.route_weights`). Tools that a user adds are routed by
their descriptions alone. Knows no model and no tool; the embedder is an argument. The language model has no
vote here: added to these scores at any weight, its log-probabilities only cost (135M weights, tuning half:
.95 of the routes right without them, .93 with a twentieth to a fifth, .51 alone, 0.36 s a message).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.route_signals import SIGNALS, signals
from agent.route_weights import (
    ROUTES,
    Route,
    Weights,
    describe_tools,
    embedded,
    features,
    load,
    tool_features,
)

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

__all__ = ["ROUTES", "Decision", "Route", "Router"]

_TOOL_PROBABILITY = 0.5
"""From here on a message asks for a user's tool. Not tuned: on the tuning halves .3 to .5 are as good."""
_CERTAIN = 0.9
"""A built-in route that is as sure as this is not taken away by a user's tool."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A route, or the name of a tool that the user added, with how sure it is (0 to 1) and why."""

    route: str
    probability: float
    reason: str
    tool: str | None = None
    missing: str | None = None
    """The route it would have been, where that is not available."""


class Router:
    """Routes messages; its weights ship with the package, or are learned on first use and kept in `cache`."""

    def __init__(
        self, embeddings: Embeddings, *, cache: Path | None = None, tools: Mapping[str, str] | None = None
    ):
        """`tools` maps the names of a user's own tools to their descriptions."""
        self._embeddings = embeddings
        self._cache = cache
        self._tools = dict(tools or {})
        self._weights: Weights | None = None
        self._tool_vectors: NDArray[np.float64] | None = None

    def route(self, message: str, *, available: Sequence[str] = ROUTES) -> Decision:
        """Decide for one message among the routes that are available; `direct` always is."""
        vector, given = self._seen(message)
        scores = self._scores(vector, given)
        best = int(scores.argmax())
        if ROUTES[best] == "direct" or scores[best] <= _CERTAIN:
            own = self._own_tool(vector, given)
            if own is not None:
                return own
        why = ", ".join(name for name in SIGNALS if given[name]) or "none"
        shown = f"{ROUTES[best]} {scores[best]:.2f}; signals: {why}"
        if ROUTES[best] != "direct" and ROUTES[best] not in available:
            reason = f"{shown}; {ROUTES[best]} is not available here"
            missing = ROUTES[best]
            return Decision(route="direct", probability=float(scores[best]), reason=reason, missing=missing)
        return Decision(route=ROUTES[best], probability=float(scores[best]), reason=shown)

    def scores(self, message: str) -> NDArray[np.float64]:
        """The probability [routes] of each built-in route, in the order of `ROUTES`."""
        return self._scores(*self._seen(message))

    def _seen(self, message: str) -> tuple[NDArray[np.float64], dict[str, bool]]:
        vector = np.asarray(self._embeddings.embed_query(embedded(message)), dtype=np.float64)
        return vector, signals(message)

    def _learned(self) -> Weights:
        if self._weights is None:
            self._weights = load(self._embeddings, self._cache)
        return self._weights

    def _scores(self, vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
        weights = self._learned().routes
        logits = weights[:, :-1] @ features(vector, given) + weights[:, -1]
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    def _own_tool(self, vector: NDArray[np.float64], given: Mapping[str, bool]) -> Decision | None:
        """The user's tool that the message asks for, if any."""
        if not self._tools:
            return None
        if self._tool_vectors is None:
            self._tool_vectors = describe_tools(self._embeddings, self._tools)
        near = self._tool_vectors @ vector
        winner = int(near.argmax())
        weights = self._learned().tool
        logit = weights[:-1] @ tool_features(vector, given, float(near[winner])) + weights[-1]
        probability = float(1 / (1 + np.exp(-logit)))
        if probability < _TOOL_PROBABILITY:
            return None
        name = list(self._tools)[winner]
        reason = f"asks for {name} {probability:.2f}; like its description {near[winner]:.2f}"
        return Decision(route="tool", tool=name, probability=probability, reason=reason)
