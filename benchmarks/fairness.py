"""Print how much concurrent work slows each other down on one model, as ratios within one run.

    python benchmarks/fairness.py [--rounds 3] [--part chat|rag|busy]

The targets, on the embedded model and a quiet machine:

    chat   With four `rag.astream` running, a chat's 40 tokens take at most 2 times as long as alone, and its
           first token at most 3 times.
    rag    Eight requests of one question at once cost at most 3 times one. Eight requests of equal size that
           arrive one after the other end in that order.
    busy   `agent ask` over documents takes at most 4 times as long next to four busy loops as alone.

The documents are made up, and every question has its own. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from chains.rag import rag_chain
from llms import ChatLocal
from llms.threads import configure_threads

PLACES = ("harbour", "library", "museum", "market", "theatre", "garden", "bakery", "station")
STORY = "Write a long story about a river."
TOKENS = 40


def passages(place: str, count: int = 2) -> list[Document]:
    """Return made-up documents about a place, each of five sentences."""
    return [
        Document(
            " ".join(
                f"The {place} in district {5 * i + j} opens at {j % 5 + 6} and closes at {j % 4 + 17}, its "
                f"keeper {11 * i + j} wrote down for the visitors of that year."
                for j in range(5)
            ),
            metadata={"source": f"{place}-{i}.txt"},
        )
        for i in range(count)
    ]


def chain_of(chat: ChatLocal) -> Any:
    """Return a rag chain whose retriever finds the documents about the place that the question names."""
    found = {place: passages(place) for place in PLACES}
    retriever: Any = RunnableLambda(lambda q: found[next(place for place in PLACES if place in q)])
    return rag_chain(chat, retriever, mode="extractive", threshold=-1.0)


async def tokens_of(chat: ChatLocal) -> tuple[float, float]:
    """Return the seconds to the first of 40 tokens, and to the last."""
    began, first = time.perf_counter(), 0.0
    async for _ in chat.astream(STORY, max_tokens=TOKENS):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


async def answer(chain: Any, question: str) -> float:
    """Return when the answer to a question was complete."""
    async for _ in chain.astream(question):
        pass
    return time.perf_counter()


async def chat_next_to_rag(chat: ChatLocal, chain: Any, rounds: int) -> dict[str, float]:
    """Return how much longer a chat takes while four questions over documents are being answered."""
    alone = [await tokens_of(chat) for _ in range(rounds + 1)][1:]
    end = False

    async def keep_asking(place: str) -> None:
        number = 0
        while not end:
            number += 1
            await answer(chain, f"When does the {place} in district {number % 10} open?")

    tasks = [asyncio.create_task(keep_asking(place)) for place in PLACES[:4]]
    await asyncio.sleep(0.5)
    crowded = []
    for _ in range(rounds):
        crowded.append(await tokens_of(chat))
        await asyncio.sleep(0.1)
    end = True
    await asyncio.gather(*tasks)
    first, whole = ([statistics.median(one[i] for one in x) for x in (alone, crowded)] for i in (0, 1))
    return {
        "first_alone_s": first[0], "whole_alone_s": whole[0],
        "first_ratio": first[1] / first[0], "whole_ratio": whole[1] / whole[0],
    }  # fmt: skip


async def same_questions(chat: ChatLocal, chain: Any, rounds: int) -> dict[str, Any]:
    """Return what eight equal questions at once cost, and the order in which equal work ends."""
    ratios, question = [], "When does the harbour in district 7 open?"
    await answer(chain, question)
    for _ in range(rounds):
        chat.runtime().engine.clear_cache()
        began = time.perf_counter()
        one = await answer(chain, question) - began
        chat.runtime().engine.clear_cache()
        began = time.perf_counter()
        await asyncio.gather(*(answer(chain, question) for _ in range(8)))
        ratios.append((time.perf_counter() - began) / one)
    ends = await asyncio.gather(*(answer_after(chain, i) for i in range(8)))
    return {"eight_ratio": statistics.median(ratios), "in_order": ends == sorted(ends)}


async def answer_after(chain: Any, number: int) -> float:
    """Return the end of the answer to one of eight questions of equal size, which arrive 50 ms apart."""
    await asyncio.sleep(0.05 * number)
    return await answer(chain, f"When does the {PLACES[number]} in district 7 open?")


def ask_next_to_busy_loops(rounds: int) -> dict[str, float]:
    """Return how much longer `agent ask` over documents takes next to four busy loops."""
    with tempfile.TemporaryDirectory() as folder:
        for place in PLACES:
            for i, document in enumerate(passages(place)):
                Path(folder, f"{place}-{i}.txt").write_text(document.page_content, encoding="utf-8")
        environment = os.environ | {"AGENT_HOME": f"{folder}/home", "AGENT_CACHE_DIR": "platform"}
        command = [
            sys.executable,
            "-m",
            "agent",
            "ask",
            "--docs",
            folder,
            "When does the museum in district 9 open?",
        ]

        def ask() -> float:
            began = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            return time.perf_counter() - began

        ask()
        quiet = statistics.median(ask() for _ in range(rounds))
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
        try:
            busy = statistics.median(ask() for _ in range(rounds))
        finally:
            for loop in loops:
                loop.kill()
    return {"quiet_s": quiet, "busy_s": busy, "busy_ratio": busy / quiet}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("chat", "rag", "busy"), help="only one part")
    options = parser.parse_args()
    chat = ChatLocal(model="smollm2-135m", temperature=0, notify=lambda line: None)
    chain = chain_of(chat)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "chat": lambda: asyncio.run(chat_next_to_rag(chat, chain, options.rounds)),
        "rag": lambda: asyncio.run(same_questions(chat, chain, options.rounds)),
        "busy": lambda: ask_next_to_busy_loops(options.rounds),
    }
    result: dict[str, Any] = {"benchmark": "fairness"}
    for name, part in parts.items():
        if options.part in (None, name):
            found = part()
            print(f"{name:6}" + "  ".join(f"{key} {value:.2f}" for key, value in found.items()))
            result |= found
    print(json.dumps(result))


if __name__ == "__main__":
    configure_threads()
    main()
