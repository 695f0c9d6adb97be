"""What the router has learned from its described examples, and where that is kept.

Two linear models over a message's embedding and its signals: one of the built-in routes, and one that says
whether a message asks for a tool that a user added, which also sees how near the tool's description is. The
weights for the embedder that ships lie in `route_weights.json` beside this file (`python -m
agent.route_weights` learns them again, and a test proves that it would change nothing); for another embedder
they are learned once, in seconds, and kept in the cache. Knows embeddings, signals and files; refuses to
decide anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from agent.route_examples import read_examples, read_tool_examples
from agent.route_signals import SIGNALS, signals

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

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
    shipped = _read(files("agent").joinpath(_SHIPPED), recipe, probe)
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
    constants = (_EMBEDDING_WEIGHT, _SIGNAL_WEIGHT, _LIKENESS_WEIGHT, _ROUTES_C, _TOOL_C)
    digest = hashlib.blake2b(repr((ROUTES, SIGNALS, constants)).encode(), digest_size=8)
    for name in ("route_examples.txt", "tool_examples.txt", "route_patterns.txt", "route_signals.py"):
        digest.update(files("agent").joinpath(name).read_bytes())
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


def main() -> None:
    """Learn the weights for the embedder that ships and write them beside this file."""
    from chains.retrieval import default_embeddings

    embeddings = default_embeddings()
    probe = np.asarray(embeddings.embed_query("router"), dtype=np.float64)
    text = _written(learn(embeddings), _recipe(), probe)
    Path(__file__).with_name(_SHIPPED).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
