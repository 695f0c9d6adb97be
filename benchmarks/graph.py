"""What the graph costs over the bare model: python benchmarks/graph.py [--turns N].

On the embedded model: milliseconds a turn with and without the graph, the first token of a conversation's
first turn (cold) against that of later ones (prefix cache), and the growth of memory over many turns.
Baseline in the same run: `ChatLocal.stream` on the same messages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

SYSTEM = "You are a helpful assistant who answers in one short sentence. " * 60
"""Some 700 tokens, as a system prompt with tools and notes has them: what the prefix cache spares."""


def first_and_end(stream: Iterator[Any]) -> tuple[float, float]:
    """Seconds to the first piece of text and to the end."""
    started, first = time.perf_counter(), 0.0
    for piece in stream:
        if not first and bool(getattr(piece, "text", None)):
            first = time.perf_counter() - started
    return first, time.perf_counter() - started


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    args = parser.parse_args()
    from langchain_core.messages import HumanMessage, SystemMessage

    from agent import Parts, RunContext, load_settings, stream_events
    from agent.threads import config_of, open_threads

    settings = load_settings(model="smollm2-135m", max_tokens=12, system=SYSTEM, logging=False)
    context = RunContext(docs="off", tools="off")
    with tempfile.TemporaryDirectory() as folder, Parts(settings) as parts:
        model = parts.model
        model.invoke("warm up")
        bare, graph = [], []
        plain = parts.agent(documents=False, tools=False)
        for turn in range(args.turns):
            # A question of its own for each, in turns: the second of two equal prompts is a cached one.
            ask = [
                HumanMessage(f"Name the number {2 * turn}."),
                HumanMessage(f"Name the number {2 * turn + 1}."),
            ]
            bare.append(first_and_end(model.stream([SystemMessage(SYSTEM), ask[0]]))[1])
            graph.append(first_and_end(stream_events(plain, ask[1].text, context=context))[1])
        with open_threads(Path(folder, "threads.sqlite")) as threads:
            kept = parts.agent(documents=False, tools=False, checkpointer=threads.saver)
            talk = threads.new("benchmark")
            firsts, memory = [], []
            for turn in range(args.turns):
                if turn % 10 == 0:
                    talk = threads.new("benchmark")
                    model.runtime().engine.clear_cache()
                question = f"And what about {turn}?"
                first, _ = first_and_end(
                    stream_events(kept, question, context=context, config=config_of(talk))
                )
                firsts.append((turn % 10 == 0, first))
                threads.settle(talk)  # as the command line does after each turn
                memory.append(psutil.Process().memory_info().rss / 2**20)
            kept_kib = Path(folder, "threads.sqlite").stat().st_size / 2**10
    overhead = statistics.median(g - b for g, b in zip(graph, bare, strict=True)) * 1000
    share = statistics.median(graph) / statistics.median(bare) - 1
    later = statistics.median(first for cold, first in firsts if not cold)
    # Ten turns make a conversation: its peak is held against the peaks of others, not against its beginning.
    peaks = [max(memory[at : at + 10]) for at in range(0, len(memory), 10)]
    report = {
        "bare_ms": round(statistics.median(bare) * 1000, 1),
        "graph_ms": round(statistics.median(graph) * 1000, 1),
        "overhead_ms": round(overhead, 1),
        "overhead_share": round(share, 3),
        "first_token_first_turn_ms": round(statistics.median(f for cold, f in firsts if cold) * 1000, 1),
        "first_token_later_turns_ms": round(later * 1000, 1),
        "first_token_later_share_of_cold": round(later / statistics.median(f for c, f in firsts if c), 3),
        "memory_peaks_mib": [round(peak) for peak in peaks],
        "memory_growth_mib_second_half": round(peaks[-1] - peaks[len(peaks) // 2], 1),
        "threads_file_kib": round(kept_kib),
        "turns": args.turns,
    }
    for name, value in report.items():
        print(f"{name:32} {value}")
    print(json.dumps({"benchmark": "graph", **report}))


if __name__ == "__main__":
    main()
