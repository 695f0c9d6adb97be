"""Print accuracy and speed of the agent's router, against the nearest mean of the example embeddings.

    python benchmarks/routing.py --data PATH [--half HALF] [--no-documents]

The baseline, in the same run, takes the route whose examples have the nearest mean embedding. As in the
agent, documents decide the docs route by the cosine of the best chunk if the corpus is available (PATH/peps).
A message about any other corpus is scored by the router alone. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.planner.router import ROUTES, RouteDecision, Router, read_examples

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings


def measures(predicted: list[str], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return accuracy, macro recall, balanced accuracy of `tool_needed`, and near misses kept `direct`."""
    truth = [row["route"] for row in rows]
    hit = np.array([p == t for p, t in zip(predicted, truth, strict=True)])
    macro = [hit[[t == route for t in truth]].mean() for route in ROUTES if route in truth]
    tool, needed = (
        np.array([p != "direct" for p in predicted]),
        np.array([row["tool_needed"] for row in rows]),
    )
    near = np.array([row["route"] == "direct" and "near miss" in row.get("note", "") for row in rows])
    return {
        "route": float(hit.mean()),
        "macro": float(np.mean(macro)),
        "tool_needed": float((tool[needed].mean() + (~tool[~needed]).mean()) / 2),
        "near_misses_kept": float((~tool[near]).mean()),
    }


def interval(predicted: list[str], rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of one measure, from 500 draws."""
    random = np.random.default_rng(0)
    values = []
    for _ in range(500):
        pick = random.integers(0, len(rows), len(rows))
        with np.errstate(invalid="ignore"):
            values.append(measures([predicted[i] for i in pick], [rows[i] for i in pick])[name])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def nearest_mean(router_embeddings: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Return the baseline's routes: the nearest mean of a route's examples, by cosine."""
    examples = read_examples()
    vectors = np.array(router_embeddings.embed_documents([text for _, text in examples]))
    means = np.stack([vectors[[r == route for r, _ in examples]].mean(axis=0) for route in ROUTES])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    found = np.array(router_embeddings.embed_documents([row["message"] for row in rows])) @ means.T
    return [ROUTES[i] for i in found.argmax(axis=1)]


def document_scores(data: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the cosine of the best chunk for each message whose corpus is the PEPs."""
    from chains.retrieval import DocumentStore

    with tempfile.TemporaryDirectory() as folder:
        store = DocumentStore(Path(folder))
        store.ingest([data / "peps"])
        return {r["id"]: store.best_score(r["message"]) for r in rows if r["corpus"] == "python-peps"}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with routing.jsonl")
    parser.add_argument("--half", choices=["tune", "report", "both"], default="both")
    parser.add_argument("--no-documents", action="store_true", help="leave the PEPs out")
    args = parser.parse_args()
    if not (args.data / "routing.jsonl").is_file():
        parser.error(f"expected routing.jsonl in the folder, found none at {args.data}")
    all_rows = [
        json.loads(line) for line in (args.data / "routing.jsonl").read_text(encoding="utf-8").splitlines()
    ]

    from chains.retrieval import default_embeddings

    embeddings = default_embeddings()
    router = Router(embeddings)
    router.route("warm up")
    scores = {} if args.no_documents else document_scores(args.data, all_rows)
    halves = {"tune": 0, "report": 1}
    report: dict[str, Any] = {}
    print(f"{'half':7} {'router':14} {'measure':18} value   95 % interval")
    for half, parity in halves.items():
        rows = [row for row in all_rows if zlib.crc32(row["id"].encode()) % 2 == parity]
        if args.half not in (half, "both"):
            continue
        decisions, router_ms = timed(router, embeddings, rows)
        routes_of = [decision.route for decision in decisions]
        predicted = {"nearest mean": nearest_mean(embeddings, rows), "router": routes_of}
        if scores:
            predicted["with documents"] = [
                route_with_documents(route, scores.get(row["id"]))
                for route, row in zip(routes_of, rows, strict=True)
            ]
        for name, routes in predicted.items():
            for measure, value in measures(routes, rows).items():
                low, high = interval(routes, rows, measure)
                print(f"{half:7} {name:14} {measure:18} {value:.2f}    {low:.2f}-{high:.2f}")
                report[f"{half}.{name}.{measure}"] = round(value, 3)
        report[f"{half}.ms_after_embedding"] = round(router_ms, 2)
        print(f"{half:7} {'router':14} {'ms after embed':18} {router_ms:.2f}")
    print(json.dumps({"benchmark": "routing", **report}))


def timed(
    router: Router, embeddings: Embeddings, rows: list[dict[str, Any]]
) -> tuple[list[RouteDecision], float]:
    """Return the decisions, and the milliseconds per message that they take in addition to the embedding."""
    started = time.perf_counter()
    decisions = [router.route(row["message"]) for row in rows]
    both = time.perf_counter() - started
    started = time.perf_counter()
    for row in rows:
        embeddings.embed_query(row["message"])
    return decisions, (both - (time.perf_counter() - started)) / len(rows) * 1000


def route_with_documents(route: str, score: float | None) -> str:
    """Return the route after the documents were searched; it stays if the corpus is not available."""
    from chains.rag.evidence import THRESHOLD

    if score is None or route not in ("direct", "docs"):
        return route
    return "docs" if score >= THRESHOLD else "direct"


if __name__ == "__main__":
    main()
