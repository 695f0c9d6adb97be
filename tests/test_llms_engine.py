"""The engine: threads, batches, cancelling, the prefix cache, scoring. A tiny random model, fp32."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from test_llms_decoder import tiny

from llms.engine import Engine
from llms.engine_request import Piece, Request, gather
from llms.engine_text import Detokenizer, StopScanner
from llms.errors import (
    BadRequest,
    ContextOverflow,
    DamagedCheckpoint,
    NotEnoughMemory,
    RequestTooLarge,
)
from llms.prefix import common_prefix
from llms.reference import ReferenceDecoder
from llms.sampling import Sampling

MODEL = tiny(None)


def decode(ids: list[int]) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


def request(prompt: Sequence[int], count: int = 8, **kwargs: Any) -> Request:
    return Request(prompt=tuple(prompt), max_tokens=count, decode=decode, **kwargs)


def prompt(seed: int, length: int = 12) -> list[int]:
    return [(seed * 31 + 7 * i) % 128 for i in range(length)]


def tokens(pieces: Sequence[Piece]) -> list[int]:
    return [t for piece in pieces for t in piece.tokens]


@pytest.fixture
def engine() -> Engine:
    return Engine(ReferenceDecoder(MODEL, max_slots=16))


@pytest.fixture
def alone() -> Iterator[Any]:
    """What a request gives on an engine of its own."""

    def run(asked: Request) -> list[int]:
        return tokens(Engine(ReferenceDecoder(MODEL, max_slots=4)).submit(asked).result())

    return iter([run])


def test_a_batch_of_threads_gives_what_single_runs_give(engine: Engine, alone: Any) -> None:
    run = next(alone)
    asked = [request(prompt(i, 10 + i), sampling=Sampling(temperature=1.0, seed=i)) for i in range(24)]
    found: list[list[int]] = [[] for _ in asked]

    def work(i: int) -> None:
        found[i] = tokens(engine.submit(asked[i]).result())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [run(a) for a in asked]


class _LateCondition(threading.Condition):
    """A condition whose waiter, once woken, is slow to come back."""

    def _acquire_restore(self, state: Any) -> None:
        time.sleep(0.3)
        super()._acquire_restore(state)  # type: ignore[misc]


class _Errand:
    """Something that waits for the engine, as a handle does."""

    def __init__(self, ready: threading.Condition) -> None:
        self.ready = ready
        self.satisfied = False

    def wake(self) -> None:
        """Nobody reads."""


def test_the_lead_passes_over_a_sleeper_that_has_what_it_wanted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = engine._lock
    leader, served, last = (
        _Errand(kind(lock)) for kind in (threading.Condition, _LateCondition, threading.Condition)
    )

    def step() -> None:
        """Serve `served`, who still sleeps when the leader leaves; `last` serves itself."""
        while engine.lead.leader is leader and len(engine.lead.sleepers) < 2:
            time.sleep(0.01)
        with lock:
            if engine.lead.leader is leader:
                leader.satisfied = served.satisfied = True
                served.ready.notify_all()
            else:
                last.satisfied = True

    monkeypatch.setattr(engine, "_step", step)
    threads = []
    for errand in (leader, served, last):
        threads.append(threading.Thread(target=engine.drive, args=(errand,), daemon=True))
        threads[-1].start()
        while engine.lead.leader is not leader and not leader.satisfied:
            time.sleep(0.01)
        time.sleep(0.05)
    for thread in threads:
        thread.join(10)
    assert last.satisfied, "nobody leads, everybody sleeps"


def test_concurrent_requests_share_steps(engine: Engine) -> None:
    handles = [engine.submit(request(prompt(i), 10)) for i in range(8)]
    gather(handles)
    assert engine.steps <= 14


def test_closing_stops_the_work_at_once(engine: Engine) -> None:
    handle = engine.submit(request(prompt(1), 200))
    stream = iter(handle)
    for _ in range(5):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(handle.generated) == 5
    last = engine.submit(request(prompt(2), 3))
    last.result()
    assert len(handle.generated) == 5 and engine.queue.active == []


def test_a_paused_reader_holds_nobody_up_and_loses_nothing(alone: Any) -> None:
    run = next(alone)
    engine = Engine(ReferenceDecoder(MODEL, max_slots=3), max_batch=1)
    paused = engine.submit(request(prompt(1), 30, run_ahead=2))
    stream = iter(paused)
    head = [next(stream) for _ in range(2)]
    other = request(prompt(2), 40)
    assert tokens(engine.submit(other).result()) == run(other)
    assert tokens([*head, *stream]) == run(request(prompt(1), 30))


def test_async_streams_batch_and_cancel_within_a_token(engine: Engine, alone: Any) -> None:
    run = next(alone)
    asked = [request(prompt(i), 6) for i in range(10)]

    async def collect(one: Request) -> list[int]:
        return [t async for piece in engine.submit(one).stream() for t in piece.tokens]

    async def main() -> tuple[list[list[int]], int, int]:
        long = engine.submit(request(prompt(99), 100))
        seen = 0

        async def endless() -> None:
            nonlocal seen
            async for _ in long.stream():
                seen += 1

        task = asyncio.create_task(endless())
        found = await asyncio.gather(*(collect(one) for one in asked))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stopped = len(long.generated)
        await collect(request(prompt(5), 4))
        return list(found), stopped, len(long.generated)

    found, stopped, later = asyncio.run(main())
    assert found == [run(a) for a in asked]
    assert stopped < 100 and later <= stopped + 1


def test_the_prefix_cache_changes_no_token_and_spares_the_prefill(engine: Engine, alone: Any) -> None:
    run = next(alone)
    shared = prompt(3, 60)
    first = engine.submit(request([*shared, 1, 2]))
    first.result()
    second = engine.submit(request([*shared, 9, 8, 7]))
    assert tokens(second.result()) == run(request([*shared, 9, 8, 7]))
    assert second.cached_tokens == 60
    follow = [*shared, 1, 2, *first.generated]
    third = engine.submit(request(follow))
    assert tokens(third.result()) == run(request(follow))
    assert third.cached_tokens == len(follow) - 1


def test_a_batch_prefills_its_common_beginning_once(engine: Engine) -> None:
    shared = prompt(4, 80)
    handles = [engine.submit(request([*shared, i, i + 1], 3)) for i in range(6)]
    gather(handles)
    assert [h.cached_tokens for h in handles] == [0, 80, 80, 80, 80, 80]


def test_the_prefix_cache_is_bounded_in_bytes_oldest_first() -> None:
    decoder = ReferenceDecoder(MODEL, max_slots=16)
    engine = Engine(decoder, cache_bytes=3 * 40 * decoder.bytes_per_token)
    for i in range(6):
        engine.submit(request(prompt(i, 30), 5)).result()
        assert engine.table.idle_bytes <= 3 * 40 * decoder.bytes_per_token
    assert engine.table.best([*prompt(5, 30), 1])[1] == 30
    assert engine.table.best([*prompt(0, 30), 1])[1] == 0


def test_a_prompt_longer_than_the_window_names_both_lengths(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match=r"256.*300") as raised:
        engine.submit(request([1] * 300))
    assert (raised.value.prompt_tokens, raised.value.window) == (300, 256)
    with pytest.raises(BadRequest):
        engine.submit(request([]))


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
    handles = [engine.submit(request(prompt(i))) for i in range(3)]
    for handle in handles:
        with pytest.raises(RuntimeError, match="boom"):
            handle.result()
    assert len(tokens(engine.submit(request(prompt(7))).result())) == 8


def test_a_request_too_large_by_itself_is_named() -> None:
    engine = Engine(Failing(RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1))
    with pytest.raises(RequestTooLarge, match="12 tokens"):
        engine.submit(request(prompt(1))).result()
    assert len(tokens(engine.submit(request(prompt(7))).result())) == 8


class Crowded(ReferenceDecoder):
    """A decoder whose slots together hold `capacity` tokens: a step beyond it fails and changes nothing."""

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


def test_a_full_memory_ends_no_request_that_fits_alone(alone: Any) -> None:
    run = next(alone)
    decoder = Crowded(60)
    engine = Engine(decoder)
    asked = [request(prompt(i, 20), 20) for i in range(6)]
    handles = [engine.submit(one) for one in asked]
    assert [tokens(pieces) for pieces in gather(handles)] == [run(one) for one in asked]
    assert decoder.refusals > 0 and not engine.queue.waiting
    scores = engine.score([(prompt(i, 20), [[1], [2]]) for i in range(2)])
    assert all(value < 0 for row in scores for value in row)
    with pytest.raises(RequestTooLarge):
        engine.submit(request(prompt(9, 61))).result()
    with pytest.raises(NotEnoughMemory):
        engine.score([(prompt(i, 90), [[1]]) for i in range(2)])


class Spelled:
    """A grammar of one text with free places (None): it forces the rest, or only masks."""

    def __init__(self, text: Sequence[int | None], *, forces: bool) -> None:
        self.text, self.forces, self.place = list(text), forces, 0

    def mask(self, remaining: int) -> torch.Tensor:
        allowed = torch.ones(128, dtype=torch.bool)
        if (token := self.text[self.place]) is not None:
            allowed[:] = False
            allowed[token] = True
        return allowed

    def settle(self, token: int, remaining: int) -> int:
        return token

    def accept(self, token: int) -> bool:
        assert self.text[self.place] in (None, token)
        self.place += 1
        return self.place == len(self.text)

    def forced(self) -> list[int]:
        if not self.forces:
            return []
        rest = self.text[self.place :]
        return [t for t in rest[: next((i for i, t in enumerate(rest) if t is None), len(rest))] if t]


@pytest.mark.parametrize(
    ("text", "expected"),
    [([5, 6, 7, None, 8, None, None, 9, 10], [9, 3]), ([5, 6], [2, 0]), ([None, 7, 7, 7], [4, 1])],
)
def test_forced_tokens_cost_no_pass_and_change_no_token(text: list[int | None], expected: list[int]) -> None:
    found, passes = [], []
    for forces in (False, True):
        decoder = Crowded(1000)
        engine = Engine(decoder)
        asked = [request(prompt(i), 30, constraint=Spelled(text, forces=forces)) for i in range(2)]
        found.append([tokens(p) for p in gather([engine.submit(one) for one in asked])])
        passes.append(decoder.passes)
    assert found[0] == found[1] and len(found[0][0]) == len(text)
    assert passes == expected


def test_forced_tokens_stop_at_the_limit_and_give_way_to_logprobs(engine: Engine) -> None:
    cut = request(prompt(1), 3, constraint=Spelled([1, 2, 3, 4, 5], forces=True))
    pieces = engine.submit(cut).result()
    assert tokens(pieces) == [1, 2, 3] and pieces[-1].finish_reason == "length"
    asked = request(prompt(1), 9, constraint=Spelled([1, None, 3], forces=True), top_logprobs=1)
    assert all(len(piece.logprobs) == 1 for piece in engine.submit(asked).result())


def test_nan_is_refused_at_the_first_token() -> None:
    model = tiny(None)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    engine = Engine(ReferenceDecoder(model, max_slots=4))
    with pytest.raises(DamagedCheckpoint, match="NaN"):
        engine.submit(request(prompt(1))).result()


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
    assert not engine.table._busy


def test_scoring_and_generating_run_side_by_side(engine: Engine, alone: Any) -> None:
    run = next(alone)
    asked = request(prompt(8), 30)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(tokens(engine.submit(asked).result())))
    thread.start()
    scores = [engine.score([(prompt(i), [[1, 2], [3]])]) for i in range(5)]
    thread.join(60)
    assert found == run(asked) and all(len(s[0]) == 2 for s in scores)


def test_stop_strings_are_never_shown_even_in_part() -> None:
    scanner = StopScanner(["STOP", "\n\n"])
    shown = [scanner.push(text) for text in ("one S", "T", "OP two")]
    assert "".join(shown) == "one " and scanner.hit == "STOP"
    held = StopScanner(["STOP"])
    assert held.push("a ST") == "a " and held.push("AR") == "STAR" and held.flush() == ""
    assert held.push("x S") == "x " and held.flush() == "S"


def test_a_character_is_never_cut() -> None:
    data = "héllo 😀😀 日本".encode()

    def byte_text(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    detokenizer = Detokenizer(byte_text, [*b"prompt: "])
    parts = [detokenizer.push(byte) for byte in data]
    assert "".join(parts) + detokenizer.flush() == data.decode()
    assert all("\ufffd" not in part for part in parts)
    broken = Detokenizer(byte_text)
    assert [broken.push(b) for b in "😀".encode()[:2]] == ["", ""] and "\ufffd" in broken.flush()


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0 and common_prefix([5], [5]) == 1
