"""Which route a message takes where the model is too small to plan: one scored decision, with its reason.

A linear model over the message's embedding and its signals (`agent.route_signals`), learned from the
described examples in `route_examples.txt`. Tools that a user adds are routed by the likeness of their
descriptions alone. Knows no model and no tool; the embedder is an argument. The language model's own Yes/No
was measured too and is near chance with 135M weights (balanced accuracy .52 raw, .65 calibrated), so it has
no vote here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from agent.route_signals import SIGNALS, signals

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

Route = Literal["calculator", "classify", "code", "direct", "docs", "file", "run", "summarize"]
ROUTES: tuple[str, ...] = tuple(sorted(get_args(Route)))

# Chosen on the half of the routing set that may be tuned on: accuracy .95, flat around these values.
_EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _C = 2.0, 0.7, 1.0
# A message asks for a user's tool where the cosine to its description, less a fifth of the probability of the
# best built-in route, reaches this. On the tuning halves: .82 of the tools' messages found, always the right
# tool of the five or six offered, .93 of the others kept out of ten tools (a cosine of .35 alone: .66, .97).
_TOOL_SCORE, _ROUTE_WEIGHT = 0.18, 0.2


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A route, or the name of a tool that the user added, with how sure it is (0 to 1) and why."""

    route: str
    probability: float
    reason: str
    tool: str | None = None


def read_examples() -> list[tuple[str, str]]:
    """The described examples as (route, message)."""
    route, found = "", []
    for line in files("agent").joinpath("route_examples.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            route = line.strip("[]")
        elif line and not line.startswith("#"):
            found.append((route, line.replace("\\n", "\n")))
    return found


class Router:
    """Routes messages; learns its weights on first use and keeps them in `cache`."""

    def __init__(
        self, embeddings: Embeddings, *, cache: Path | None = None, tools: Mapping[str, str] | None = None
    ):
        """`tools` maps the names of a user's own tools to their descriptions."""
        self._embeddings = embeddings
        self._cache = cache
        self._tools = dict(tools or {})
        self._weights: NDArray[np.float64] | None = None
        self._tool_vectors: NDArray[np.float64] | None = None

    def route(self, message: str, *, available: Sequence[str] = ROUTES) -> Decision:
        """Decide for one message among the routes that are available; `direct` always is."""
        vector = np.asarray(self._embeddings.embed_query(_embedded(message)), dtype=np.float64)
        given = signals(message)
        scores = self._scores(vector, given)
        best = int(scores.argmax())
        if (own := self._own_tool(vector, scores, best)) is not None:
            return own
        why = ", ".join(name for name in SIGNALS if given[name]) or "none"
        shown = f"{ROUTES[best]} {scores[best]:.2f}; signals: {why}"
        if ROUTES[best] != "direct" and ROUTES[best] not in available:
            reason = f"{shown}; {ROUTES[best]} is not available here"
            return Decision(route="direct", probability=float(scores[best]), reason=reason)
        return Decision(route=ROUTES[best], probability=float(scores[best]), reason=shown)

    def _scores(self, vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
        if self._weights is None:
            self._weights = self._load() if self._cache is not None else _learn(self._embeddings)
        logits = self._weights[:, :-1] @ _features(vector, given) + self._weights[:, -1]
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    def _own_tool(
        self, vector: NDArray[np.float64], scores: NDArray[np.float64], best: int
    ) -> Decision | None:
        """A user's tool, where its description is near and no built-in route is nearly certain."""
        if not self._tools or (ROUTES[best] != "direct" and scores[best] > 0.9):
            return None
        if self._tool_vectors is None:
            described = [f"{name.replace('_', ' ')}: {text}" for name, text in self._tools.items()]
            self._tool_vectors = np.asarray(self._embeddings.embed_documents(described), dtype=np.float64)
        near = self._tool_vectors @ vector
        winner = int(near.argmax())
        if near[winner] - _ROUTE_WEIGHT * scores[best] < _TOOL_SCORE:
            return None
        name = list(self._tools)[winner]
        reason = f"like the description of {name} ({near[winner]:.2f})"
        return Decision(route="tool", tool=name, probability=float(near[winner]), reason=reason)

    def _load(self) -> NDArray[np.float64]:
        """Weights from the cache, learned and kept there where they are missing or damaged."""
        assert self._cache is not None
        probe = np.asarray(self._embeddings.embed_query("router"), dtype=np.float32).round(2).tobytes()
        recipe = repr((read_examples(), SIGNALS, _EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _C)).encode()
        source = files("agent").joinpath("route_signals.py").read_bytes()
        file = (
            self._cache / f"router-{hashlib.blake2b(probe + recipe + source, digest_size=8).hexdigest()}.npy"
        )
        try:
            return np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
        except (OSError, ValueError, EOFError):
            weights = _learn(self._embeddings)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            with partial.open("wb") as stream:
                np.save(stream, weights)
            partial.replace(file)
        except OSError:
            pass  # a cache that cannot be written costs two seconds at the next start, nothing else
        return weights


def _embedded(message: str) -> str:
    """The part of a message that says what is asked: its beginning and its end."""
    return message if len(message) <= 800 else f"{message[:500]} … {message[-250:]}"


def _features(vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
    return np.concatenate(
        [
            _EMBEDDING_WEIGHT * vector,
            _SIGNAL_WEIGHT * np.array([given[name] for name in SIGNALS], dtype=np.float64),
        ]
    )


def _learn(embeddings: Embeddings) -> NDArray[np.float64]:
    """Weights `[routes, features + 1]` of multinomial logistic regression on the examples (scikit-learn)."""
    from sklearn.linear_model import LogisticRegression

    examples = read_examples()
    vectors = np.asarray(
        embeddings.embed_documents([_embedded(text) for _, text in examples]), dtype=np.float64
    )
    rows = np.stack([_features(v, signals(text)) for v, (_, text) in zip(vectors, examples, strict=True)])
    model = LogisticRegression(C=_C, max_iter=2000).fit(rows, [route for route, _ in examples])
    order = [list(model.classes_).index(route) for route in ROUTES]
    return np.hstack([model.coef_, model.intercept_[:, None]])[order]
