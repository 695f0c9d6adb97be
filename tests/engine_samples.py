"""Requests to a tiny random model in fp32, and a decoder whose memory is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from test_llms_decoder import tiny

from llms.decoders.reference import ReferenceDecoder
from llms.engine.engine import Engine
from llms.engine.request import GenerationRequest, Piece
from llms.errors import NotEnoughMemory

MODEL = tiny(None)


def decode(ids: list[int]) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


def request(prompt: Sequence[int], count: int = 8, **kwargs: Any) -> GenerationRequest:
    return GenerationRequest(prompt=tuple(prompt), max_tokens=count, decode=decode, **kwargs)


def prompt(seed: int, length: int = 12) -> list[int]:
    return [(seed * 31 + 7 * i) % 128 for i in range(length)]


def tokens(pieces: Sequence[Piece]) -> list[int]:
    return [t for piece in pieces for t in piece.tokens]


def alone(asked: GenerationRequest) -> list[int]:
    """Return the tokens of a request on an engine of its own."""
    return tokens(Engine(ReferenceDecoder(MODEL, max_slots=4)).submit(asked).result())


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds that the engine's thread brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.001)


class Crowded(ReferenceDecoder):
    """A decoder whose slots hold `capacity` tokens together. A step beyond that fails and changes nothing."""

    def __init__(self, capacity: int) -> None:
        super().__init__(MODEL, max_slots=12)
        self.capacity, self.refusals, self.passes = capacity, 0, 0

    def refuse(self, count: int) -> None:
        if sum(self.length(slot) for slot in range(self.max_slots)) + count > self.capacity:
            self.refusals += 1
            raise NotEnoughMemory("no page left")
        self.passes += 1

    def prefill(self, slot: int, tokens: Any) -> Any:
        self.refuse(len(tokens))
        return super().prefill(slot, tokens)

    def step(self, slots: Any, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        self.refuse(sum(len(row) for row in tokens))
        return super().step(slots, tokens, *args, **kwargs)
