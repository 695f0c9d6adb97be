"""Errors of a pass, and memory that runs out: the requests that fail, and those that go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_samples import MODEL, Crowded, alone, prompt, request, tokens
from test_llms_decoder import tiny

from llms.decoders.reference import ReferenceDecoder
from llms.engine.engine import Engine
from llms.engine.stream import gather
from llms.errors import DamagedCheckpoint, NotEnoughMemory, RequestTooLarge


class Failing(ReferenceDecoder):
    """A decoder that fails at its n-th step."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__(MODEL, max_slots=8)
        self.error, self.after = error, after

    def step(self, *args: Any, **kwargs: Any) -> Any:
        self.after -= 1
        if self.after == 0:
            raise self.error
        return super().step(*args, **kwargs)


def test_an_error_reaches_every_caller_and_the_engine_goes_on() -> None:
    engine = Engine(Failing(RuntimeError("boom"), 3))
    streams = [engine.submit(request(prompt(i))) for i in range(3)]
    for stream in streams:
        with pytest.raises(RuntimeError, match="boom"):
            stream.result()
    assert len(tokens(engine.submit(request(prompt(7))).result())) == 8


def test_a_request_too_large_by_itself_is_named() -> None:
    engine = Engine(Failing(RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1))
    with pytest.raises(RequestTooLarge, match="12 tokens"):
        engine.submit(request(prompt(1))).result()
    assert len(tokens(engine.submit(request(prompt(7))).result())) == 8


def test_a_full_memory_ends_no_request_that_fits_alone() -> None:
    decoder = Crowded(60)
    engine = Engine(decoder)
    asked = [request(prompt(i, 20), 20) for i in range(6)]
    streams = [engine.submit(one) for one in asked]
    assert [tokens(pieces) for pieces in gather(streams)] == [alone(one) for one in asked]
    assert decoder.refusals > 0 and not engine.scheduler.waiting
    scores = engine.score([(prompt(i, 20), [[1], [2]]) for i in range(2)])
    assert all(value < 0 for row in scores for value in row)
    with pytest.raises(RequestTooLarge):
        engine.submit(request(prompt(9, 61))).result()
    with pytest.raises(NotEnoughMemory):
        engine.score([(prompt(i, 90), [[1]]) for i in range(2)])


def test_nan_is_refused_at_the_first_token() -> None:
    model = tiny(None)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    engine = Engine(ReferenceDecoder(model, max_slots=4))
    with pytest.raises(DamagedCheckpoint, match="NaN"):
        engine.submit(request(prompt(1))).result()


def test_the_prefix_cache_is_bounded_in_bytes_oldest_first() -> None:
    decoder = ReferenceDecoder(MODEL, max_slots=16)
    engine = Engine(decoder, cache_bytes=3 * 40 * decoder.bytes_per_token)
    for i in range(6):
        engine.submit(request(prompt(i, 30), 5)).result()
        assert engine.table.idle_bytes <= 3 * 40 * decoder.bytes_per_token
    assert engine.table.best([*prompt(5, 30), 1])[1] == 30
    assert engine.table.best([*prompt(0, 30), 1])[1] == 0
