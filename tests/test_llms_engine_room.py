"""Requests share one decoder: prompts and scoring run in chunks, and a full pool makes requests wait."""

from __future__ import annotations

import pytest
from engine_samples import until
from scripted_decoder import PAGE, ScriptedDecoder
from scripted_requests import by_hand, check_cache, limit_steps, plain, request, whole

from llms.engine.engine import Engine
from llms.engine.stream import gather
from llms.errors import RequestTooLarge


def test_a_prompt_is_prefilled_in_chunks_between_the_tokens_of_others() -> None:
    decoder = ScriptedDecoder(pages=3000, pause=0.001)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    running = engine.submit(request(plain([1, 2], 600, run_ahead=0)))
    running.next_piece()
    slot, start = running.sequence.slot, len(decoder.steps)
    late = engine.submit_all([request(plain([i] * (2500 + i), 2)) for i in (3, 4, 5)])
    made = len(running.generated)
    until(lambda: all(h.done for h in late) or running.done)
    running.close()
    waited = [0]
    for counts, _ in decoder.steps[start:]:
        if slot in counts:
            waited.append(0)
        else:
            waited[-1] += max(counts.values()) * len(counts)
    assert max(waited) <= sum(engine.scheduler.budget[1::2]), "more than one chunk between two tokens"
    assert sum(1 for w in waited if w) >= 7 and len(running.generated) - made >= 7


def test_scoring_runs_in_chunks_between_the_tokens_of_others() -> None:
    decoder = ScriptedDecoder(pages=3000, slots=40, pause=0.001)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    running = engine.submit(request(plain([1, 2], 600, run_ahead=0)))
    running.next_piece()
    slot, start = running.sequence.slot, len(decoder.steps)
    scores = engine.score([([i] * 300, [[1], [2]]) for i in range(20)])
    assert len(scores) == 20 and len(running.generated) >= 6
    running.close()
    waited = [0]
    for counts, _ in decoder.steps[start:]:
        if slot in counts:
            waited.append(0)
        else:
            waited[-1] += sum(counts.values())
    assert max(waited) <= engine.scheduler.budget.next_to_others


def test_a_prompt_waits_until_the_pool_has_room_for_it() -> None:
    decoder = ScriptedDecoder(pages=20)
    engine = Engine(decoder)
    first = engine.submit(request(plain([1] * 40, 20, run_ahead=0)))
    head = first.next_piece()
    assert head is not None
    second = engine.submit(request(plain([2] * 40, 3)))
    assert whole(second.result())[0] == by_hand(plain([2] * 40, 3))
    assert first.done and decoder.refused <= 1, "admitted, it would have pushed out the other or itself"
    assert whole([head, *first.result()])[0] == by_hand(plain([1] * 40, 20))


def test_a_full_pool_drops_cached_prefixes_oldest_first_then_pauses_and_ends_nobody() -> None:
    decoder = ScriptedDecoder(pages=24)
    engine = Engine(decoder)
    for start in (0, 10, 20):
        engine.submit(request(plain(range(start, start + 18), 2))).result()
    assert engine.table.best([*range(20, 38), 1])[1] == 18
    engine.submit(request(plain([5] * 38, 2))).result()
    assert engine.table.best([*range(20, 38), 1])[1] == 18, "the youngest prefix stays"
    assert engine.table.best([*range(18), 1])[1] == 0, "the oldest went"
    wanted = [plain([i] * 20, 20) for i in range(6)]
    streams = [engine.submit(request(one)) for one in wanted]
    assert [whole(p)[0] for p in gather(streams)] == [by_hand(one) for one in wanted]
    assert engine.score([([i] * 20, [[1], [2, 3]]) for i in range(8)])[0][0] < 0
    with pytest.raises(RequestTooLarge):
        ScriptedDecoder.window, before = 200, ScriptedDecoder.window
        try:
            engine.submit(request(plain([1] * (25 * PAGE), 2))).result()
        finally:
            ScriptedDecoder.window = before
    assert whole(engine.submit(request(wanted[0])).result())[0] == by_hand(wanted[0])
    check_cache(engine, decoder, streams)


def test_a_reader_that_lags_keeps_no_pool_from_the_others() -> None:
    decoder = ScriptedDecoder(pages=16)
    engine = Engine(decoder)
    limit_steps(engine, 100)
    lagging = engine.submit(request(plain([1] * 40, 10, run_ahead=1)))
    head = lagging.next_piece()
    assert head is not None
    other = engine.submit(request(plain([2] * 40, 5)))
    assert whole(other.result())[0] == by_hand(plain([2] * 40, 5))
    assert whole([head, *lagging.result()])[0] == by_hand(plain([1] * 40, 10))
    check_cache(engine, decoder, [lagging, other])


def test_requests_whose_readers_take_turns_do_not_push_each_other_out() -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder, max_batch=1)
    limit_steps(engine, 400)
    streams = [engine.submit(request(plain([i, 7], 6, run_ahead=1))) for i in range(3)]
    seen: list[list[int]] = [[], [], []]
    for _ in range(6):
        for stream, tokens in zip(streams, seen, strict=True):
            piece = stream.next_piece()
            assert piece is not None
            tokens.extend(piece.tokens)
    assert seen == [by_hand(plain([i, 7], 6)) for i in range(3)]
