"""The router: which route a message takes, as one scored decision with its reason.

Two logistic regressions look at a message's embedding and its signals: one of the built-in routes, and one
that says whether the message asks for a tool that a user added, which also sees how near the tool's
description is. They are learned from described examples: `route_examples.txt` has messages for each built-in
route, `tool_examples.txt` has tools as a user would add them, with messages that ask for each and near misses
that only share its subject. The weights for the embedder that ships lie in `route_weights.json` (`python -m
agent.planner.router` learns them again, and a test proves that this would change nothing); for another
embedder they are learned once, in seconds, and kept in the cache.

The language model has no vote: added to these scores at any weight, its log-probabilities only cost (135M
weights, tuning half: .95 of the routes right without them, .93 with a weight of 0.05 to 0.2, .51 alone, 0.36
s a message).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from agent.planner.signals import SIGNALS, signals

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

__all__ = ["ROUTES", "TOOL_OF_ROUTE", "Route", "RouteDecision", "Router"]

Route = Literal["calculator", "classify", "code", "direct", "docs", "file", "run", "summarize"]
ROUTES: tuple[str, ...] = tuple(sorted(get_args(Route)))

TOOL_OF_ROUTE: Mapping[str, str] = {
    "calculator": "calculator",
    "classify": "classify",
    "code": "write_code",
    "file": "read_file",
    "run": "run_python",
    "summarize": "summarize",
}
"""The built-in tool of each route; `docs` is answered before the model, `direct` needs no tool."""

_TOOL_PROBABILITY = 0.5
"""From here on a message asks for a user's tool. Not tuned: .3 to .5 do equally well on the tuning halves."""
_CERTAIN = 0.9
"""A user's tool does not replace a built-in route that is surer than this."""


@dataclass(frozen=True, kw_only=True)
class RouteDecision:
    """A route, or the name of a tool that the user added, with its probability and the reason."""

    route: str
    probability: float
    reason: str
    tool: str | None = None
    missing: str | None = None
    """The route it would have been, if that is not available."""


class Router:
    """Routes messages. Its weights ship with the package, or are learned on first use and kept in `cache`.

    ```python
    router = Router(default_embeddings(), tools={"get_weather": "Return the weather in a city."})
    router.route("What is 15 % of 300?").route                # "calculator"
    router.route("Will it rain in Rome tomorrow?").tool       # "get_weather"
    ```

    It is a `llms.protocols.ToolPicker`, too.
    """

    def __init__(
        self, embeddings: Embeddings, *, cache: Path | None = None, tools: Mapping[str, str] | None = None
    ):
        """`tools` maps the names of a user's own tools to their descriptions."""
        self._embeddings = embeddings
        self._cache = cache
        self._tools = dict(tools or {})
        self._weights: RouterWeights | None = None
        self._tool_vectors: dict[tuple[tuple[str, str], ...], NDArray[np.float64]] = {}

    def route(self, message: str, *, available: Sequence[str] = ROUTES) -> RouteDecision:
        """Return the decision for one message. `direct` is always available."""
        vector, given = self._seen(message)
        scores = self._scores(vector, given)
        best = int(scores.argmax())
        if ROUTES[best] == "direct" or scores[best] <= _CERTAIN:
            own = self._own_tool(vector, given, self._tools)
            if own is not None:
                return own
        why = ", ".join(name for name in SIGNALS if given[name]) or "none"
        shown = f"{ROUTES[best]} {scores[best]:.2f}; signals: {why}"
        if ROUTES[best] != "direct" and ROUTES[best] not in available:
            reason = f"{shown}; {ROUTES[best]} is not available here"
            missing = ROUTES[best]
            return RouteDecision(
                route="direct", probability=float(scores[best]), reason=reason, missing=missing
            )
        return RouteDecision(route=ROUTES[best], probability=float(scores[best]), reason=shown)

    def pick(self, message: str, tools: Mapping[str, str], *, must: bool = False) -> str | None:
        """Return which of `tools` a message asks for, as `llms.protocols.ToolPicker` says."""
        built_in = {route: tool for route, tool in TOOL_OF_ROUTE.items() if tool in tools}
        own = {name: text for name, text in tools.items() if name not in built_in.values()}
        vector, given = self._seen(message)
        scores = dict(zip(ROUTES, self._scores(vector, given), strict=True))
        best = max(scores, key=scores.__getitem__)
        if best == "direct" or scores[best] <= _CERTAIN:
            if (asked := self._own_tool(vector, given, own)) is not None:
                return asked.tool
        if best in built_in or not must:
            return built_in.get(best)
        if built_in:
            return built_in[max(built_in, key=scores.__getitem__)]
        nearest = self._own_tool(vector, given, own, least=0.0)
        return nearest.tool if nearest is not None else None

    def scores(self, message: str) -> NDArray[np.float64]:
        """Return the probability [routes] of each built-in route, in the order of `ROUTES`."""
        return self._scores(*self._seen(message))

    def _seen(self, message: str) -> tuple[NDArray[np.float64], dict[str, bool]]:
        vector = np.asarray(self._embeddings.embed_query(embedded(message)), dtype=np.float64)
        return vector, signals(message)

    def _learned(self) -> RouterWeights:
        if self._weights is None:
            self._weights = load(self._embeddings, self._cache)
        return self._weights

    def _scores(self, vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
        weights = self._learned().routes
        logits = weights[:, :-1] @ features(vector, given) + weights[:, -1]
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    def _own_tool(
        self,
        vector: NDArray[np.float64],
        given: Mapping[str, bool],
        tools: Mapping[str, str],
        *,
        least: float = _TOOL_PROBABILITY,
    ) -> RouteDecision | None:
        """Return the decision for the user's tool that a message asks for, None if there is none."""
        if not tools:
            return None
        key = tuple(tools.items())
        if key not in self._tool_vectors:
            self._tool_vectors = {key: describe_tools(self._embeddings, tools)}
        near = self._tool_vectors[key] @ vector
        winner = int(near.argmax())
        weights = self._learned().tool
        logit = weights[:-1] @ tool_features(vector, given, float(near[winner])) + weights[-1]
        probability = float(1 / (1 + np.exp(-logit)))
        if probability < least:
            return None
        name = list(tools)[winner]
        reason = f"asks for {name} {probability:.2f}; like its description {near[winner]:.2f}"
        return RouteDecision(route="tool", tool=name, probability=probability, reason=reason)


# Chosen on the tuning halves of the labelled sets. The optimum is flat: .95 of the routes are right, and the
# AUC of "asks for a user's tool" is .97 to .98 for every embedding weight from 1.5 to 3, likeness weight from
# 2 to 6 and C from 0.25 to 1. No tool of the labelled sets is among the examples.
_EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _LIKENESS_WEIGHT = 2.0, 0.7, 3.0
_ROUTES_C, _TOOL_C = 1.0, 0.5
_SHIPPED = "route_weights.json"

SIGNALS_DIGEST = "f8e805f3d516b918"
"""Digest of the signals of every example, from which the weights follow. Computing it takes a second, so it
is written down here; a test compares it with `signals_digest()`."""


@dataclass(frozen=True, kw_only=True)
class RouterWeights:
    """The weights `routes` [routes, features + 1] and `tool` [features + 2] (float64), intercepts last.

    `tool` has the likeness to the description before its intercept.
    """

    routes: NDArray[np.float64]
    tool: NDArray[np.float64]


def embedded(message: str) -> str:
    """Return the part of a message that says what is asked: its beginning and its end."""
    return message if len(message) <= 800 else f"{message[:500]} … {message[-250:]}"


def features(vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
    """Return the features [features] of a message, from its embedding and its signals."""
    flags = np.array([given[name] for name in SIGNALS], dtype=np.float64)
    return np.concatenate([_EMBEDDING_WEIGHT * vector, _SIGNAL_WEIGHT * flags])


def tool_features(
    vector: NDArray[np.float64], given: Mapping[str, bool], likeness: float
) -> NDArray[np.float64]:
    """Return the features [features + 1] of a message and the tool whose description is nearest."""
    return np.append(features(vector, given), _LIKENESS_WEIGHT * likeness)


def describe_tools(embeddings: Embeddings, tools: Mapping[str, str]) -> NDArray[np.float64]:
    """Return a vector [tools, dimension] for each tool; times a message's vector it is their likeness.

    It is the mean of two sentences: what the tool does, and what somebody would say to get it.
    """
    said = {name: " ".join(text.split("\n\n")[0].split()) or name for name, text in tools.items()}
    named = [f"{name.replace('_', ' ')}: {text}" for name, text in said.items()]
    asked = [f"Please {text[:1].lower()}{text[1:].removesuffix('.')}." for text in said.values()]
    vectors = np.asarray(embeddings.embed_documents([*named, *asked]), dtype=np.float64)
    return np.asarray((vectors[: len(said)] + vectors[len(said) :]) / 2)


def load(embeddings: Embeddings, cache: Path | None = None) -> RouterWeights:
    """Return the weights for this embedder: those that ship, else those in `cache`, else new ones."""
    probe = np.asarray(embeddings.embed_query("router"), dtype=np.float64)
    recipe = _recipe()
    shipped = _read(files("agent.planner").joinpath(_SHIPPED), recipe, probe)
    if shipped is not None or cache is None:
        return shipped or learn(embeddings)
    file = cache / f"router-{recipe}.json"
    if (kept := _read(file, recipe, probe)) is not None:
        return kept
    weights = learn(embeddings)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(_written(weights, recipe, probe), encoding="utf-8")
        partial.replace(file)
    except OSError:
        pass  # A cache that cannot be written costs seconds at the next start, nothing else.
    return weights


def learn(embeddings: Embeddings) -> RouterWeights:
    """Learn both models from the examples by logistic regression (scikit-learn); takes seconds."""
    from sklearn.linear_model import LogisticRegression

    examples, asked = read_examples(), read_tool_examples()
    vectors, rows = _rows(embeddings, [text for _, text in examples])
    asked_vectors, asked_rows = _rows(embeddings, [example.message for example in asked])
    model = LogisticRegression(C=_ROUTES_C, max_iter=2000).fit(rows, [route for route, _ in examples])
    order = [list(model.classes_).index(route) for route in ROUTES]
    routes = np.hstack([model.coef_, model.intercept_[:, None]])[order]

    tools = {example.tool: example.description for example in asked}
    described = describe_tools(embeddings, tools)
    near = asked_vectors @ described.T
    own = [near[row, list(tools).index(example.tool)] for row, example in enumerate(asked)]
    # A message of a built-in route asks for none of the tools, not even the nearest.
    likeness = _LIKENESS_WEIGHT * np.concatenate([own, (vectors @ described.T).max(axis=1)])
    asks = [example.asks for example in asked] + [False] * len(examples)
    pairs = np.hstack([np.vstack([asked_rows, rows]), likeness[:, None]])
    binary = LogisticRegression(C=_TOOL_C, max_iter=2000, class_weight="balanced").fit(pairs, asks)
    return RouterWeights(routes=routes, tool=np.append(binary.coef_[0], binary.intercept_[0]))


def _rows(embeddings: Embeddings, messages: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the vectors [messages, dimension] and features [messages, features]."""
    shown = [embedded(message) for message in messages]
    vectors = np.asarray(embeddings.embed_documents(shown), dtype=np.float64)
    return vectors, np.stack([features(v, signals(m)) for v, m in zip(vectors, messages, strict=True)])


@dataclass(frozen=True, kw_only=True)
class ToolExample:
    """A tool and a message, and whether the message asks for that tool."""

    tool: str
    description: str
    message: str
    asks: bool


def read_examples() -> list[tuple[str, str]]:
    """Return the examples of the built-in routes as (route, message)."""
    route, found = "", []
    for line in _lines("route_examples.txt"):
        if line.startswith("["):
            route = line.strip("[]")
        else:
            found.append((route, line.replace("\\n", "\n")))
    return found


def read_tool_examples() -> list[ToolExample]:
    """Return the examples of tools that a user adds."""
    tool, description, found = "", "", []
    for line in _lines("tool_examples.txt"):
        if line.startswith("["):
            tool, description = (part.strip() for part in line.strip("[]").split("|"))
            continue
        message = line.removeprefix("- ")
        asks = message == line
        found.append(ToolExample(tool=tool, description=description, message=message, asks=asks))
    return found


def _lines(name: str) -> Iterator[str]:
    text = files("agent.planner").joinpath(name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


@once
def _recipe() -> str:
    """Return a digest of everything, except the embedder, from which the weights follow."""
    constants = (SIGNALS_DIGEST, _EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _LIKENESS_WEIGHT, _ROUTES_C, _TOOL_C)
    digest = hashlib.blake2b(repr((ROUTES, SIGNALS, constants)).encode(), digest_size=8)
    for name in ("route_examples.txt", "tool_examples.txt", "route_patterns.txt"):
        digest.update(files("agent.planner").joinpath(name).read_bytes())
    return digest.hexdigest()


def _written(weights: RouterWeights, recipe: str, probe: NDArray[np.float64]) -> str:
    rows = {"probe": probe, "tool": weights.tool, **dict(zip(ROUTES, weights.routes, strict=True))}
    texts = [f'"{name}": {json.dumps([round(float(x), 5) for x in row])}' for name, row in rows.items()]
    return "{\n" + ",\n".join([f'"recipe": "{recipe}"', *texts]) + "\n}\n"


def _read(file: Any, recipe: str, probe: NDArray[np.float64]) -> RouterWeights | None:
    """Return the weights in a file, None if it is missing, damaged, older, or for another embedder."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        kept = np.array(said["probe"], dtype=np.float64)
        if said["recipe"] != recipe or kept.shape != probe.shape or np.abs(kept - probe).max() > 1e-3:
            return None
        return RouterWeights(routes=np.array([said[route] for route in ROUTES]), tool=np.array(said["tool"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def signals_digest() -> str:
    """Return what `SIGNALS_DIGEST` has to be."""
    digest = hashlib.blake2b(digest_size=8)
    for message in [text for _, text in read_examples()] + [one.message for one in read_tool_examples()]:
        digest.update(bytes(signals(message)[name] for name in SIGNALS))
    return digest.hexdigest()


def main() -> None:
    """Learn the weights for the embedder that ships and write them beside this file."""
    from chains.retrieval import default_embeddings

    embeddings = default_embeddings()
    probe = np.asarray(embeddings.embed_query("router"), dtype=np.float64)
    text = _written(learn(embeddings), _recipe(), probe)
    Path(__file__).with_name(_SHIPPED).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
