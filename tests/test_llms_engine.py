"""The engine on a tiny random model: threads, batches, cancelling, the prefix cache, scoring."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch
from engine_samples import MODEL, alone, prompt, request, tokens, until

from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.engine.engine import Engine
from llms.engine.request import GenerationRequest
from llms.engine.stream import gather
from llms.errors import BadRequest, ContextOverflow


@pytest.fixture
def engine() -> Engine:
    return Engine(ReferenceDecoder(MODEL, max_slots=16))


def test_a_batch_of_threads_gives_what_single_runs_give(engine: Engine) -> None:
    asked = [request(prompt(i, 10 + i), sampling=Sampling(temperature=1.0, seed=i)) for i in range(24)]
    found: list[list[int]] = [[] for _ in asked]

    def work(i: int) -> None:
        found[i] = tokens(engine.submit(asked[i]).result())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [alone(a) for a in asked]


def test_concurrent_requests_share_steps(engine: Engine) -> None:
    streams = [engine.submit(request(prompt(i), 10)) for i in range(8)]
    gather(streams)
    assert engine.steps <= 14


def test_closing_stops_the_work_at_once(engine: Engine) -> None:
    stream = engine.submit(request(prompt(1), 200))
    pieces = iter(stream)
    for _ in range(5):
        next(pieces)
    began = len(stream.generated)
    pieces.close()  # type: ignore[attr-defined]
    last = engine.submit(request(prompt(2), 3))
    last.result()
    until(lambda: not engine.scheduler.active)
    # It was at most 8 tokens ahead of its reader, and one step may have been running.
    assert began <= 5 + 8 and len(stream.generated) <= began + 2


def test_a_paused_reader_holds_nobody_up_and_loses_nothing() -> None:
    engine = Engine(ReferenceDecoder(MODEL, max_slots=3), max_batch=1)
    paused = engine.submit(request(prompt(1), 30, run_ahead=2))
    stream = iter(paused)
    head = [next(stream) for _ in range(2)]
    other = request(prompt(2), 40)
    assert tokens(engine.submit(other).result()) == alone(other)
    assert tokens([*head, *stream]) == alone(request(prompt(1), 30))


def test_async_streams_batch_and_cancel_within_a_token(engine: Engine) -> None:
    asked = [request(prompt(i), 6) for i in range(10)]

    async def collect(one: GenerationRequest) -> list[int]:
        return [t async for piece in engine.submit(one) for t in piece.tokens]

    async def main() -> tuple[list[list[int]], int, int]:
        long = engine.submit(request(prompt(99), 100))
        seen = 0

        async def endless() -> None:
            nonlocal seen
            async for _ in long:
                seen += 1

        task = asyncio.create_task(endless())
        found = await asyncio.gather(*(collect(one) for one in asked))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stopped = len(long.generated)
        await collect(request(prompt(5), 4))
        return list(found), stopped, len(long.generated)

    found, stopped, later = asyncio.run(main())
    assert found == [alone(a) for a in asked]
    assert stopped < 100 and later <= stopped + 1


def test_the_prefix_cache_changes_no_token_and_spares_the_prefill(engine: Engine) -> None:
    shared = prompt(3, 60)
    first = engine.submit(request([*shared, 1, 2]))
    first.result()
    second = engine.submit(request([*shared, 9, 8, 7]))
    assert tokens(second.result()) == alone(request([*shared, 9, 8, 7]))
    assert second.cached_tokens == 60
    follow = [*shared, 1, 2, *first.generated]
    third = engine.submit(request(follow))
    assert tokens(third.result()) == alone(request(follow))
    assert third.cached_tokens == len(follow) - 1


def test_a_batch_prefills_its_common_beginning_once(engine: Engine) -> None:
    shared = prompt(4, 80)
    streams = [engine.submit(request([*shared, i, i + 1], 3)) for i in range(6)]
    gather(streams)
    assert [h.cached_tokens for h in streams] == [0, 80, 80, 80, 80, 80]


def test_a_prompt_longer_than_the_window_names_both_lengths(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match=r"256.*300") as raised:
        engine.submit(request([1] * 300))
    assert (raised.value.prompt_tokens, raised.value.window) == (300, 256)
    with pytest.raises(BadRequest):
        engine.submit(request([]))


def test_scores_are_those_of_plain_passes(engine: Engine) -> None:
    shared = prompt(6, 40)
    items = [([*shared, *prompt(i, 5 + i % 3)], [[1], [2, 3], [4, 5, 6 + i]]) for i in range(40)]
    items += [(prompt(50, 9), [[7, 8, 9, 10]]), (prompt(51, 3), [])]
    found = engine.score(items)
    for (ids, continuations), row in zip(items, found, strict=True):
        assert len(row) == len(continuations)
        for continuation, value in zip(continuations, row, strict=True):
            with torch.inference_mode():
                logits = MODEL(torch.tensor([[*ids, *continuation]])).logits[0].log_softmax(-1)
            expected = sum(float(logits[len(ids) - 1 + k, t]) for k, t in enumerate(continuation))
            assert value == pytest.approx(expected, abs=1e-3)
    until(lambda: not engine.table._busy)


def test_scoring_and_generating_run_side_by_side(engine: Engine) -> None:
    asked = request(prompt(8), 30)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(tokens(engine.submit(asked).result())))
    thread.start()
    scores = [engine.score([(prompt(i), [[1, 2], [3]])]) for i in range(5)]
    thread.join(60)
    assert found == alone(asked) and all(len(s[0]) == 2 for s in scores)
