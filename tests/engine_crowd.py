"""Use one model from 64 threads, 64 asyncio tasks and 8 forked children at once, and compare every token.

    python tests/engine_crowd.py SECONDS

The model is a tiny random one in fp32. Each answer must be that of a single run. Readers take whole answers,
read piece by piece, leave early, or score. Prints the number of answers of each kind.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from itertools import chain

import torch
from engine_samples import MODEL, alone, prompt, request, tokens

from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.engine.engine import Engine

THREADS, TASKS, CHILDREN = 64, 64, 8
ASKED = [
    request(prompt(i, 6 + 5 * (i % 7)), 4 + i % 9, sampling=Sampling(temperature=float(i % 2), seed=i))
    for i in range(24)
]
ITEMS = [(prompt(i, 20), [[1], [2, 3], [4, 5, 6]]) for i in range(6)]


def make_engine() -> Engine:
    """Return an engine with few slots, so that requests have to wait for them."""
    return Engine(ReferenceDecoder(MODEL, max_slots=24))


class Crowd:
    """Readers of one engine, and what single runs give."""

    def __init__(self, seconds: float) -> None:
        self.expected = [alone(one) for one in ASKED]
        self.scores = make_engine().score(ITEMS)
        self.engine, self.end = make_engine(), time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def check(self, kind: str, which: int, found: list[int], *, part: bool = False) -> None:
        """Compare an answer, or the beginning of one, with that of a single run."""
        wanted = self.expected[which][: len(found)] if part else self.expected[which]
        self.counts[kind] += 1
        if found != wanted:
            self.wrong.append(f"{kind} {which}: {found} != {wanted}")

    def thread(self, seed: int) -> None:
        """Ask until the time is over."""
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            which, kind = chance.randrange(len(ASKED)), chance.choice(["whole", "pieces", "left", "score"])
            if kind == "score":
                self.counts[kind] += 1
                found = self.engine.score(ITEMS)
                pairs = zip(chain(*found), chain(*self.scores), strict=True)
                if any(abs(a - b) > 1e-3 for a, b in pairs):
                    self.wrong.append(f"score: {found}")
                continue
            stream = self.engine.submit(ASKED[which])
            if kind == "whole":
                self.check(kind, which, tokens(stream.result()))
            elif kind == "pieces":
                self.check(kind, which, tokens(list(stream)))
            else:
                first = stream.next_piece()
                stream.close()
                self.check(kind, which, list(first.tokens if first else ()), part=True)

    async def task(self, seed: int) -> None:
        """Do the same as `thread` in a task, and cancel some of the calls."""
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            which, kind = chance.randrange(len(ASKED)), chance.choice(["awhole", "apieces", "cancelled"])
            stream = self.engine.submit(ASKED[which])
            if kind == "apieces":
                self.check(kind, which, [t async for piece in stream for t in piece.tokens])
                continue
            call = asyncio.create_task(stream.aresult())
            if kind == "cancelled":
                await asyncio.sleep(chance.random() / 50)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                self.check(kind, which, list(stream.generated), part=True)
            else:
                self.check(kind, which, tokens(await call))

    async def tasks(self) -> None:
        """Run all tasks."""
        await asyncio.gather(*(self.task(1000 + i) for i in range(TASKS)))

    def child(self, seed: int) -> int:
        """Answer in a forked child, which has the weights and none of the threads; return the exit status."""
        torch.set_num_threads(1)
        engine = make_engine()
        chosen = random.Random(seed).sample(range(len(ASKED)), 6)
        streams = engine.submit_all([ASKED[i] for i in chosen])
        found = [tokens(stream.result()) for stream in streams]
        return 0 if found == [self.expected[i] for i in chosen] else 3


def main() -> None:
    """Run the crowd and exit with 0 if every token was right."""
    seconds = float(sys.argv[1])
    crowd = Crowd(seconds)
    threads = [threading.Thread(target=crowd.thread, args=(i,)) for i in range(THREADS)]
    threads.append(threading.Thread(target=lambda: asyncio.run(crowd.tasks())))
    for thread in threads:
        thread.start()
    children = []
    for i in range(CHILDREN):
        time.sleep(seconds / CHILDREN / 2)
        if (pid := os.fork()) == 0:
            os._exit(crowd.child(i))
        children.append(pid)
    status = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    for thread in threads:
        thread.join()
    sys.stdout.write(f"{dict(crowd.counts)}, children {status}\n")
    if crowd.wrong or any(status) or len(crowd.counts) < 7:
        sys.exit("\n".join(crowd.wrong[:5]) or f"children: {status}")


if __name__ == "__main__":
    main()
