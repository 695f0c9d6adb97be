"""Print what the agent's graph adds to a turn in time and memory, against `ChatLocal.stream` alone.

    python benchmarks/graph.py [--turns N]

On the embedded model: milliseconds per turn with and without the graph; the parts of a turn with tools in a
conversation on disk; the first token of a conversation's first turn (cold) and of its later turns (prefix
cache); and the growth of memory over many turns. The baseline streams the same messages in the same run.
Processor time is printed next to the elapsed time, because other programs disturb it less. Prints a table,
then one JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from agent import Parts

SYSTEM = "You are a helpful assistant who answers in one short sentence. " * 60
"""About 700 tokens, like a system prompt with tools and notes. The prefix cache saves their prefill."""


class Clock:
    """Adds up the seconds that calls of watched methods take, under a name for each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, name: str, owner: Any, *methods: str) -> None:
        """Count the time of these methods of a class or an object under `name`."""
        for method in methods:
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)  # LangGraph reads the signature
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        return timed


def first_and_end(stream: Iterator[Any]) -> tuple[float, float]:
    """Return the seconds to the first piece of text and to the end."""
    started, first = time.perf_counter(), 0.0
    for piece in stream:
        if not first and bool(getattr(piece, "text", None)) and getattr(piece, "type", "") != "notice":
            first = time.perf_counter() - started
    return first, time.perf_counter() - started


def bare_and_graph(parts: Parts, turns: int) -> dict[str, Any]:
    """Measure a turn without thread and tools, and the same question to the model alone."""
    from langchain_core.messages import HumanMessage, SystemMessage

    from agent import RunContext, stream_events

    plain, context = parts.agent(documents=False, tools=False), RunContext(docs="off", tools="off")
    bare, graph, busy = [], [], []
    for turn in range(turns):
        # Each gets a question of its own, because the second of two equal prompts would be cached.
        ask = [HumanMessage(f"Name the number {2 * turn + more}.") for more in (0, 1)]
        began = time.process_time()
        bare.append(first_and_end(parts.model.stream([SystemMessage(SYSTEM), ask[0]]))[1])
        between = time.process_time()
        graph.append(first_and_end(stream_events(plain, ask[1].text, context=context))[1])
        busy.append(time.process_time() - between - (between - began))
    return {
        "bare_ms": milliseconds(bare),
        "graph_ms": milliseconds(graph),
        "overhead_ms": milliseconds([g - b for g, b in zip(graph, bare, strict=True)]),
        "overhead_share": round(statistics.median(graph) / statistics.median(bare) - 1, 3),
        "overhead_processor_ms": milliseconds(busy),
    }


def split_of_a_turn(parts: Parts, turns: int, folder: Path) -> dict[str, Any]:
    """Return the median milliseconds of each part of a turn with router, tools, approval and a thread."""
    from langchain.agents.middleware import ToolCallLimitMiddleware

    from agent import RunContext, stream_events
    from agent.planner.planner import Planner
    from agent.storage.threads import config_of, open_threads
    from agent.trace import Trace
    from agent.turn.bounds import Bounds

    clock, rows, firsts = Clock(), list[dict[str, float]](), list[float]()
    parts.router.route("warm up")
    with open_threads(folder / "split.sqlite") as threads:
        clock.watch("embedding", parts.router, "route")
        clock.watch("checkpoint", threads.saver, "put", "put_writes")
        clock.watch("opening", Planner, "route")
        clock.watch("around the model", Bounds, "wrap_model_call")
        clock.watch("after the model", ToolCallLimitMiddleware, "after_model")
        agent = parts.agent(documents=False, checkpointer=threads.saver)
        talk = threads.new("split")
        for turn in range(turns):
            if turn % 10 == 0:
                talk = threads.new("split")
            clock.seconds, trace = {}, Trace()
            config = {**config_of(talk), "callbacks": [trace]}
            asked = f"Tell me about the colour number {turn} of the list."
            first, whole = first_and_end(stream_events(agent, asked, context=RunContext(), config=config))
            threads.settle(talk)
            model = sum(step.seconds or 0.0 for step in trace.steps if step.kind == "model")
            rows.append({**clock.seconds, "model": model, "whole": whole})
            firsts.append(first - next(s.first_token or 0.0 for s in trace.steps if s.kind == "model"))
    return _summed(rows) | {"before_the_model_first_token_adds_ms": milliseconds(firsts)}


def _summed(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of the watched parts, each without the parts inside it."""
    split = {name: statistics.median(row.get(name, 0.0) for row in rows) for name in rows[0]}
    middleware = split["opening"] - split["embedding"] + split["around the model"] - split["model"]
    middleware += split["after the model"]
    rest = split["whole"] - split["model"] - split["embedding"] - split["checkpoint"] - middleware
    return {
        "turn_with_tools_ms": milliseconds([split["whole"]]),
        "of_it_model_ms": milliseconds([split["model"]]),
        "of_it_embedding_ms": milliseconds([split["embedding"]]),
        "of_it_checkpoint_ms": milliseconds([split["checkpoint"]]),
        "of_it_middleware_ms": milliseconds([middleware]),
        "of_it_rest_ms": milliseconds([rest]),
    }


def conversations(parts: Parts, turns: int, folder: Path) -> dict[str, Any]:
    """Measure the first tokens of conversations of ten turns, and the memory after each turn."""
    from agent import RunContext, stream_events
    from agent.storage.threads import config_of, open_threads

    context, path = RunContext(docs="off", tools="off"), folder / "threads.sqlite"
    firsts, memory = list[tuple[bool, float]](), list[float]()
    with open_threads(path) as threads:
        kept = parts.agent(documents=False, tools=False, checkpointer=threads.saver)
        talk = threads.new("benchmark")
        for turn in range(turns):
            if turn % 10 == 0:
                talk = threads.new("benchmark")
                parts.local_model.runtime().engine.clear_cache()
            question = f"And what about {turn}?"
            first, _ = first_and_end(stream_events(kept, question, context=context, config=config_of(talk)))
            firsts.append((turn % 10 == 0, first))
            threads.settle(talk)  # as the command line does after each turn
            memory.append(psutil.Process().memory_info().rss / 2**20)
    cold = [first for is_first, first in firsts if is_first]
    later = [first for is_first, first in firsts if not is_first]
    # A conversation has ten turns. Its peak is compared with the peaks of others, not with its beginning.
    peaks = [max(memory[at : at + 10]) for at in range(0, len(memory), 10)]
    return {
        "first_token_first_turn_ms": milliseconds(cold),
        "first_token_later_turns_ms": milliseconds(later),
        "first_token_later_share_of_cold": round(statistics.median(later) / statistics.median(cold), 3),
        "memory_peaks_mib": [round(peak) for peak in peaks],
        "memory_growth_mib_second_half": round(peaks[-1] - peaks[len(peaks) // 2], 1),
        "threads_file_kib": round(path.stat().st_size / 2**10),
    }


def milliseconds(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return round(statistics.median(seconds) * 1000, 1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=40)
    args = parser.parse_args()
    from agent import Parts, load_settings
    from agent.cli.startup import keep_few_heaps

    keep_few_heaps()  # as the command line does
    settings = load_settings(model="smollm2-135m", max_tokens=12, system=SYSTEM, logging=False)
    with tempfile.TemporaryDirectory() as name, Parts(settings) as parts:
        parts.model.invoke("warm up")
        folder = Path(name)
        report = bare_and_graph(parts, args.turns) | conversations(parts, args.turns, folder)
        report |= split_of_a_turn(parts, min(args.turns, 40), folder)  # last: it wraps methods to time them
        report["turns"] = args.turns
    for title, value in report.items():
        print(f"{title:40} {value}")
    print(json.dumps({"benchmark": "graph", **report}))


if __name__ == "__main__":
    main()
