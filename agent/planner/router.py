"""Plain facts about a message's form that an embedding does not see: code, sums, paths, and words that ask.

Each signal is a yes or no that holds whatever the topic is, in the six languages of the described examples.
Knows patterns; refuses to know routes and weights (`agent.planner.router` learns those from the examples).

The described examples that the router learns from, as they lie beside this file.

`route_examples.txt` has messages for each built-in route; `tool_examples.txt` has tools as a user would add
them, with messages that ask for each and near misses that only share its subject. Knows the two files'
forms; refuses to know what is learned from them.

What the router has learned from its described examples, and where that is kept.

Two linear models over a message's embedding and its signals: one of the built-in routes, and one that says
whether a message asks for a tool that a user added, which also sees how near the tool's description is. The
weights for the embedder that ships lie in `route_weights.json` beside this file (`python -m
agent.planner.router` learns them again, and a test proves that it would change nothing); for another embedder
they are learned once, in seconds, and kept in the cache. Knows embeddings, signals and files; refuses to
decide anything.

Which route a message takes where the model is too small to plan: one scored decision, with its reason.

The weights are learned from described examples (`agent.planner.router`). Tools that a user adds are routed by
their descriptions alone. Knows no model and no tool; the embedder is an argument. The language model has no
vote here: added to these scores at any weight, its log-probabilities only cost (135M weights, tuning half:
.95 of the routes right without them, .93 with a twentieth to a fifth, .51 alone, 0.36 s a message).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

__all__ = ["ROUTES", "Decision", "Route", "Router"]


def _read_patterns() -> dict[str, re.Pattern[str]]:
    lines = files("agent.planner").joinpath("route_patterns.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return {name: re.compile(pattern, re.IGNORECASE | re.DOTALL) for name, pattern in rows}


_COMPILED = _read_patterns()
SIGNALS: tuple[str, ...] = (
    *_COMPILED,
    "expression",
    "two_numbers",
    "python",
    "long",
    "short",
    "imperative_code",
)

SIGNALS_DIGEST = "f8e805f3d516b918"
"""Digest of what `signals` finds in every example. The weights follow from it. Computing it takes a second,
so it is written down here; a test compares it with the code."""

_EXPRESSION = re.compile(
    r"^[\s\d.,()+\-*/x\u00d7\u00f7^%=?!]*$|\d\s*(?:\*\*?|[+/\u00d7\u00f7^]|(?<=\s)[-x](?=\s))\s*\(?-?\d"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def signals(message: str) -> dict[str, bool]:
    """Which signals the message gives; takes well under a millisecond for a message of usual length."""
    head = message[:4000]
    found = {name: pattern.search(head) is not None for name, pattern in _COMPILED.items()}
    numbers = _NUMBER.findall(head)
    found["expression"] = bool(numbers) and _EXPRESSION.search(head) is not None
    found["two_numbers"] = len(numbers) >= 2
    found["python"] = python_in(head) is not None
    found["long"] = len(head) > 300
    found["short"] = len(head) < 40
    found["imperative_code"] = found["write_words"] and found["code_words"] and not found["no_code"]
    return found


def python_in(message: str) -> str | None:
    """The longest run of lines at the end of the message, or in a fence, that is a Python program; else None.

    A program here does something: a bare name or number in prose is none.
    """
    for block in re.findall(
        r"```(?:python|py)?\s*\n?(.*?)```|`([^`\n]+)`", message, re.DOTALL | re.IGNORECASE
    ):
        text = (block[0] or block[1]).strip()
        if _is_program(text):
            return str(text)
    lines = message.split("\n")
    for start in range(len(lines)):
        text = "\n".join(lines[start:]).strip("\n")
        if _is_program(text):
            return text
    tail = re.search(r"[:\uff1a]\s*(\S.*)$", lines[-1])
    return tail[1] if tail is not None and _is_program(tail[1]) else None


def _is_program(text: str) -> bool:
    if not re.search(r"[=(\[]", text):
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if isinstance(tree.body[0], ast.AnnAssign):  # "execute: f(x)" is prose with a colon
        return False
    acts = (ast.Call, ast.Assign, ast.AugAssign, ast.For, ast.While, ast.FunctionDef, ast.Subscript)
    return any(isinstance(node, acts) for node in ast.walk(tree))


@dataclass(frozen=True, kw_only=True)
class ToolExample:
    """A message beside a tool, and whether it asks for that tool."""

    tool: str
    description: str
    message: str
    asks: bool


def read_examples() -> list[tuple[str, str]]:
    """The examples of the built-in routes as (route, message)."""
    route, found = "", []
    for line in _lines("route_examples.txt"):
        if line.startswith("["):
            route = line.strip("[]")
        else:
            found.append((route, line.replace("\\n", "\n")))
    return found


def read_tool_examples() -> list[ToolExample]:
    """The examples of tools that a user adds."""
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


Route = Literal["calculator", "classify", "code", "direct", "docs", "file", "run", "summarize"]
ROUTES: tuple[str, ...] = tuple(sorted(get_args(Route)))

# Chosen on the halves of the labelled sets that may be tuned on, and flat around these values: routes .95
# right; the AUC of "asks for a user's tool" is .97 to .98 for every embedding weight from 1.5 to 3, likeness
# weight from 2 to 6 and C from 0.25 to 1. No tool of the labelled sets is among the examples.
_EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _LIKENESS_WEIGHT = 2.0, 0.7, 3.0
_ROUTES_C, _TOOL_C = 1.0, 0.5
_SHIPPED = "route_weights.json"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights with their intercepts last: `routes` [routes, features + 1], `tool` [features + 2] (float64).

    `tool` has the likeness to the description before its intercept.
    """

    routes: NDArray[np.float64]
    tool: NDArray[np.float64]


def embedded(message: str) -> str:
    """The part of a message that says what is asked: its beginning and its end."""
    return message if len(message) <= 800 else f"{message[:500]} … {message[-250:]}"


def features(vector: NDArray[np.float64], given: Mapping[str, bool]) -> NDArray[np.float64]:
    """Features [features] of a message from its embedding and its signals."""
    flags = np.array([given[name] for name in SIGNALS], dtype=np.float64)
    return np.concatenate([_EMBEDDING_WEIGHT * vector, _SIGNAL_WEIGHT * flags])


def tool_features(
    vector: NDArray[np.float64], given: Mapping[str, bool], likeness: float
) -> NDArray[np.float64]:
    """The same [features + 1] of a message beside the tool whose description is nearest."""
    return np.append(features(vector, given), _LIKENESS_WEIGHT * likeness)


def describe_tools(embeddings: Embeddings, tools: Mapping[str, str]) -> NDArray[np.float64]:
    """A vector [tools, dimension] for each tool; its product with a message's is their likeness.

    The mean of two sentences: what the tool is, and what somebody would say to get it.
    """
    said = {name: " ".join(text.split("\n\n")[0].split()) or name for name, text in tools.items()}
    named = [f"{name.replace('_', ' ')}: {text}" for name, text in said.items()]
    asked = [f"Please {text[:1].lower()}{text[1:].removesuffix('.')}." for text in said.values()]
    vectors = np.asarray(embeddings.embed_documents([*named, *asked]), dtype=np.float64)
    return np.asarray((vectors[: len(said)] + vectors[len(said) :]) / 2)


def load(embeddings: Embeddings, cache: Path | None = None) -> Weights:
    """The weights for this embedder: those that ship, else those kept in the folder `cache`, else learned."""
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
        pass  # a cache that cannot be written costs seconds at the next start, nothing else
    return weights


def learn(embeddings: Embeddings) -> Weights:
    """Both models by logistic regression on the examples (scikit-learn); takes seconds."""
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
    # A message of a built-in route asks for none of the tools, not even for the nearest.
    likeness = _LIKENESS_WEIGHT * np.concatenate([own, (vectors @ described.T).max(axis=1)])
    asks = [example.asks for example in asked] + [False] * len(examples)
    pairs = np.hstack([np.vstack([asked_rows, rows]), likeness[:, None]])
    binary = LogisticRegression(C=_TOOL_C, max_iter=2000, class_weight="balanced").fit(pairs, asks)
    return Weights(routes=routes, tool=np.append(binary.coef_[0], binary.intercept_[0]))


def _rows(embeddings: Embeddings, messages: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors [messages, dimension] and features [messages, features]."""
    shown = [embedded(message) for message in messages]
    vectors = np.asarray(embeddings.embed_documents(shown), dtype=np.float64)
    return vectors, np.stack([features(v, signals(m)) for v, m in zip(vectors, messages, strict=True)])


@once
def _recipe() -> str:
    """A digest of everything but the embedder that the weights follow from."""
    constants = (SIGNALS_DIGEST, _EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _LIKENESS_WEIGHT, _ROUTES_C, _TOOL_C)
    digest = hashlib.blake2b(repr((ROUTES, SIGNALS, constants)).encode(), digest_size=8)
    for name in ("route_examples.txt", "tool_examples.txt", "route_patterns.txt"):
        digest.update(files("agent.planner").joinpath(name).read_bytes())
    return digest.hexdigest()


def _written(weights: Weights, recipe: str, probe: NDArray[np.float64]) -> str:
    rows = {"probe": probe, "tool": weights.tool, **dict(zip(ROUTES, weights.routes, strict=True))}
    texts = [f'"{name}": {json.dumps([round(float(x), 5) for x in row])}' for name, row in rows.items()]
    return "{\n" + ",\n".join([f'"recipe": "{recipe}"', *texts]) + "\n}\n"


def _read(file: Any, recipe: str, probe: NDArray[np.float64]) -> Weights | None:
    """The weights in a file, or None where it is missing, damaged, older, or of another embedder."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        kept = np.array(said["probe"], dtype=np.float64)
        if said["recipe"] != recipe or kept.shape != probe.shape or np.abs(kept - probe).max() > 1e-3:
            return None
        return Weights(routes=np.array([said[route] for route in ROUTES]), tool=np.array(said["tool"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def signals_digest() -> str:
    """Compute what `SIGNALS_DIGEST` has to be."""
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
