"""Print how much memory a small web app holds that answers mixed requests with the embedded model.

    python benchmarks/web_memory.py [--requests 200] [--callers 8]

A process answers chats, questions over documents, summaries, labels and schemas in turn, eight at once. Its
resident memory is read after it has loaded, after each quarter of the requests, and after `unload()`. The
baseline is the same model after loading, in the same process. The target is a peak below 1,300 MB. Prints a
table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from chains import classify_chain, rag_chain, summarize_chain
from chains.retrieval import DocumentStore
from llms import ChatLocal
from llms.threads import configure_threads

TARGET_MB = 1300
SENTENCE = "The {thing} in district {n} opens at {hour} and closes at noon, and its keeper is called {name}."
THINGS = ("harbour", "library", "museum", "market", "theatre", "garden", "bakery", "station")
NAMES = ("Ada", "Bo", "Cleo", "Dana", "Emil", "Fay", "Gus", "Hana")


class Visit(BaseModel):
    """Who stays for how long."""

    name: str
    nights: int


def documents() -> list[str]:
    """Return made-up documents of twenty sentences, one about each thing."""
    return [
        " ".join(
            SENTENCE.format(thing=thing, n=20 * k + j, hour=j % 9 + 1, name=NAMES[(k + j) % 8])
            for j in range(20)
        )
        for k, thing in enumerate(THINGS)
    ]


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    return float(psutil.Process().memory_info().rss / 1e6)


class App:
    """Answers requests of five kinds."""

    def __init__(self, store: DocumentStore) -> None:
        self.chat = ChatLocal(max_tokens=60)
        self.chains: list[Any] = [
            self.chat,
            rag_chain(self.chat, store.retriever(k=4), embeddings=store.embeddings),
            summarize_chain(self.chat, embeddings=store.embeddings),
            classify_chain(self.chat, ["complaint", "praise", "question"], embeddings=store.embeddings),
            self.chat.with_structured_output(Visit),
        ]

    async def answer(self, number: int) -> None:
        """Answer one request."""
        thing, name = THINGS[number % 8], NAMES[number // 8 % 8]
        requests = (
            f"Tell {name} a short story about a {thing}, please. It is story number {number}.",
            f"When does the {thing} in district {number % 160} open?",
            documents()[number % 8],
            f"{name} writes: the {thing} was closed again when I came, number {number}.",
            f"{name} stays for {number % 9 + 1} nights.",
        )
        kind = number % 5
        await self.chains[kind].ainvoke(requests[kind])


async def serve(app: App, count: int, callers: int, first: int) -> None:
    """Answer `count` requests, `callers` at a time."""
    gate = asyncio.Semaphore(callers)

    async def one(number: int) -> None:
        async with gate:
            await app.answer(number)

    await asyncio.gather(*(one(number) for number in range(first, first + count)))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--callers", type=int, default=8)
    args = parser.parse_args()
    rows: dict[str, float] = {"imported": resident_mb()}
    with tempfile.TemporaryDirectory() as folder, DocumentStore(Path(folder) / "store") as store:
        store.add_texts({f"{thing}.txt": (text, {}) for thing, text in zip(THINGS, documents(), strict=True)})
        app = App(store)
        app.chat.invoke("Hello")
        rows["loaded, one answer"] = resident_mb()
        quarter = max(1, args.requests // 4)
        for part in range(4):
            asyncio.run(serve(app, quarter, args.callers, part * quarter))
            rows[f"after {(part + 1) * quarter} requests"] = resident_mb()
        app.chat.runtime().unload()
        rows["after unload()"] = resident_mb()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rows["peak"] = peak
    for name, value in rows.items():
        print(f"{name:24} {value:8.0f} MB")
    print(f"{'target for the peak':24} {TARGET_MB:8} MB")
    print(json.dumps({"benchmark": "web_memory", "requests": args.requests, "mb": rows}))


if __name__ == "__main__":
    configure_threads()
    main()
