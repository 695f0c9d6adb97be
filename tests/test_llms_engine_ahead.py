"""Steps launched ahead of the host give what steps in turn give: whoever joins, leaves, waits, is masked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_decoder import PAGE, VOCABULARY, ScriptedDecoder, logits_after

from llms.decoder import Decoder
from llms.engine import Engine
from llms.engine_flight import Incoming
from llms.engine_request import Handle, Piece, Request, gather
from llms.engine_run import PREFILL_TOKENS
from llms.errors import BadRequest, DamagedCheckpoint, RequestTooLarge
from llms.sampling import MOST_BIASES, Sampling, sample, steer
from llms.speculation import Pace

STARTS = ([], list(range(20)), list(range(20, 38)), [5, 6, 7, 8] * 4)
HOWS = (Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_k=9, top_p=0.9, min_p=0.02))
ACTIONS = st.tuples(st.sampled_from(["read", "read", "read", "close", "all"]), st.integers(0, 6))


def decode(ids: list[int]) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


class Even:
    """A grammar of even tokens that ends after `count` of them, and forces a 2 after every 4."""

    def __init__(self, count: int) -> None:
        self.left, self.last = count, 0

    def mask(self, remaining: int) -> torch.Tensor:
        return torch.arange(VOCABULARY) % 2 == 0

    def settle(self, token: int, remaining: int) -> int:
        return token

    def accept(self, token: int) -> bool:
        self.left, self.last = self.left - 1, token
        return self.left <= 0

    def forced(self) -> list[int]:
        return [2] if self.last == 4 and self.left > 0 else []


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    """What one request asks for; a fresh grammar is made for each use."""
    prompt = [*draw(st.sampled_from(STARTS)), *draw(st.lists(st.integers(0, 39), min_size=1, max_size=12))]
    how = replace(draw(st.sampled_from(HOWS)), seed=draw(st.integers(0, 9)))
    return {
        "prompt": tuple(prompt),
        "max_tokens": draw(st.integers(1, 14)),
        "sampling": how,
        "end_ids": frozenset(draw(st.lists(st.integers(0, 39), max_size=3))),
        "stops": draw(
            st.sampled_from([(), (decode([7]), decode([3, 4])), tuple(map(decode, [[1], [2], [8]]))])
        ),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.7])),
        "logit_bias": draw(st.sampled_from([{}, {}, {5: 4.0, 6: -9.0}])),
        "top_logprobs": draw(st.sampled_from([None, None, 2])),
        "constraint": draw(st.sampled_from([None, None, None, 1, 5])),
        "run_ahead": draw(st.sampled_from([0, 1, 2, 8])),
    }


def request(asked: dict[str, Any]) -> Request:
    count = asked["constraint"]
    return Request(**{**asked, "constraint": count and Even(count)}, decode=decode)


def whole(pieces: Sequence[Piece]) -> tuple[Any, ...]:
    """All that a caller sees."""
    infos = [(i.token, round(i.logprob, 4), [t for t, _ in i.top]) for p in pieces for i in p.logprobs]
    tokens = [t for p in pieces for t in p.tokens]
    return tokens, "".join(p.text for p in pieces), infos, {p.finish_reason for p in pieces}


def by_hand(asked: dict[str, Any]) -> list[int]:
    """The tokens of a request, from the rules alone."""
    one, tokens, grammar = request(asked), list(asked["prompt"]), None
    if one.constraint is not None:
        grammar = one.constraint
    made: list[int] = []
    while len(made) < one.max_tokens:
        if grammar is not None and one.top_logprobs is None and made and (forced := grammar.forced()):
            token = forced[0]
        else:
            logits = steer(logits_after(tokens), one.steering, tokens)
            if grammar is not None:
                logits = logits.masked_fill(~grammar.mask(0), -torch.inf)
            token = int(sample(logits[None], [one.sampling], [len(tokens)]))
        made.append(token)
        tokens.append(token)
        over = grammar is not None and grammar.accept(token)
        if over or token in one.end_ids or any(stop in decode(made) for stop in one.stops):
            break
    return made


def check_cache(
    engine: Engine, decoder: ScriptedDecoder, handles: Sequence[Handle], left: Sequence[Handle] = ()
) -> None:
    """What slots hold is what the table says: of finished requests, all but the last token at most."""
    last = engine.submit(request({**_plain([39, 38], 1), "run_ahead": 0}))
    last.result()
    engine.run.land()
    engine.queue.reap()
    sequences = [[*h.request.prompt, *h.generated] for h in [*handles, last]]
    sequences = [s if h in left else s[:-1] for s, h in zip(sequences, [*handles, last], strict=True)]
    for slot in range(decoder.max_slots):
        held = decoder.held[slot]
        assert held == engine.table._tokens.get(slot, [])
        assert not held or any(held == s[: len(held)] for s in sequences)
    assert all(handle.slot is None and handle.flight is None for handle in handles)


def _plain(prompt: Sequence[int], count: int, **more: Any) -> dict[str, Any]:
    return {"prompt": tuple(prompt), "max_tokens": count, "constraint": None, **more}


def played(
    engine: Engine, requests: Sequence[dict[str, Any]], schedule: Sequence[tuple[str, int]]
) -> tuple[list[Handle], list[list[Piece]], set[int]]:
    """Submit one request before each action of the schedule, then read all; return what each one gave."""
    handles: list[Handle] = []
    seen: list[list[Piece]] = []
    closed: set[int] = set()
    todo = list(requests)
    for action, which in [*schedule, *(("all", i) for i in range(len(requests)))] * 2:
        if todo:
            handles.append(engine.submit(request(todo.pop(0))))
            seen.append([])
        index = which % len(handles)
        if action == "close":
            handles[index].close()
            closed.add(index)
        while index not in closed and (piece := handles[index].next_piece()) is not None:
            seen[index].append(piece)
            if action == "read":
                break
    return handles, seen, closed


@settings(max_examples=120, deadline=None)
@given(
    st.lists(asked(), min_size=1, max_size=7),
    st.lists(ACTIONS, max_size=25),
    st.sampled_from([500, 60, 17]),
    st.sampled_from([2, 5, 9]),
    st.sampled_from([0, 4]),
)
def test_the_same_as_steps_in_turn(
    requests: list[dict[str, Any]],
    schedule: list[tuple[str, int]],
    pages: int,
    max_batch: int,
    guesses: int,
) -> None:
    """Requests join one by one, are read in any order, and some are left; a small pool makes them wait."""
    decoder = ScriptedDecoder(pages=pages, guesses=guesses)
    assert isinstance(decoder, Decoder)
    engine = Engine(decoder, max_batch=max_batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "pays", lambda pace: len(decoder.steps) % 5 < 3)  # a scripted step has no price
        handles, seen, closed = played(engine, requests, schedule)
    for index, (wanted, pieces) in enumerate(zip(requests, seen, strict=True)):
        expected = by_hand(wanted)
        turn = Engine(ScriptedDecoder(ahead=False)).submit(request(wanted)).result()
        assert whole(turn)[0] == expected
        if index in closed:
            assert whole(pieces)[0] == expected[: len(whole(pieces)[0])]
        else:
            assert whole(pieces) == whole(turn)
    check_cache(engine, decoder, handles, [handles[i] for i in closed])


def test_a_step_is_launched_before_the_one_ahead_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    read = Incoming.read
    monkeypatch.setattr(Incoming, "read", lambda self: (events.append("read"), read(self))[1])
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    step = decoder.step
    monkeypatch.setattr(decoder, "step", lambda *a, **k: (events.append("launch"), step(*a, **k))[1])
    gather([engine.submit(request(_plain([i], 6))) for i in range(3)])
    launches = [i for i, e in enumerate(events) if e == "launch"]
    reads = [i for i, e in enumerate(events) if e == "read"]
    assert len(launches) == 6, "no surplus step where the number of tokens ends the text"
    # tokens and the first step's check for NaN are read after the next launch
    assert events[:4] == ["launch", "launch", "read", "read"] and reads[-1] > launches[-1]
    assert [given for _, given in decoder.steps] == [0, 3, 3, 3, 3, 3]
    assert decoder.copies == 0, "tokens go from step to step as they are, while nobody joins or leaves"


def test_a_prompt_that_is_prefilled_first_costs_no_surplus_step() -> None:
    decoder = ScriptedDecoder()
    handle = Engine(decoder).submit(request(_plain([1] * 20, 3)))
    assert whole(handle.result())[0] == by_hand(_plain([1] * 20, 3))
    assert [given for _, given in decoder.steps] == [0, 1, 1]


def test_a_prompt_waits_until_the_pool_has_room_for_it() -> None:
    decoder = ScriptedDecoder(pages=20)
    engine = Engine(decoder)
    first = engine.submit(request(_plain([1] * 40, 20, run_ahead=0)))
    head = first.next_piece()
    assert head is not None
    second = engine.submit(request(_plain([2] * 40, 3)))
    assert whole(second.result())[0] == by_hand(_plain([2] * 40, 3))
    assert first.done and decoder.refused <= 1, "admitted, it would have pushed out the other or itself"
    assert whole([head, *first.result()])[0] == by_hand(_plain([1] * 40, 20))


def test_an_end_token_costs_one_step_and_leaves_nothing() -> None:
    expected = by_hand(_plain([3, 1], 12))
    end = frozenset({expected[5]})
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    handle = engine.submit(request(_plain([3, 1], 12, end_ids=end)))
    pieces = handle.result()
    made = by_hand(_plain([3, 1], 12, end_ids=end))
    assert whole(pieces)[0] == made and pieces[-1].finish_reason == "stop"
    assert len(decoder.steps) == len(made) + 1
    check_cache(engine, decoder, [handle])
    again = engine.submit(request(_plain([3, 1, *made], 4)))
    again.result()
    assert again.cached_tokens == 0, "shorter than what is worth keeping"


def test_who_joins_and_leaves_disturbs_nobody() -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    long = engine.submit(request(_plain([1, 2, 3], 30, run_ahead=0)))
    head = [long.next_piece() for _ in range(4)]
    others = [engine.submit(request(_plain([i, 9], 3 + i))) for i in range(4)]
    gather(others[:2])
    others[2].close()
    tail = long.result()
    assert whole([*(p for p in head if p), *tail])[0] == by_hand(_plain([1, 2, 3], 30))
    assert [whole(o.result())[0] for o in (others[3],)] == [by_hand(_plain([3, 9], 6))]
    mixed = [counts for counts, given in decoder.steps if 0 < given < len(counts)]
    assert mixed, "who joins steps together with those under way"
    check_cache(engine, decoder, [long, *others], others[2:3])


def test_a_grammar_waits_for_the_host_and_the_rest_gives_the_same() -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    wanted = [_plain([4, 5], 10), _plain([6, 7], 10), _plain([8], 20, repetition_penalty=1.5)]
    wanted[1]["constraint"] = 8
    handles = [engine.submit(request(one)) for one in wanted]
    assert [whole(p)[0] for p in gather(handles)] == [by_hand(one) for one in wanted]
    joint = [given for counts, given in decoder.steps if len(counts) == 3]
    assert not any(joint), "a step with a masked row is given tokens that the host has seen"
    assert any(given for counts, given in decoder.steps if len(counts) < 3)


def test_long_lists_of_biases_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llms.engine_request.MOST_BIASES", 3)
    bias = {i: -50.0 for i in range(30)}
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    handles = [engine.submit(request(_plain([4], 5, logit_bias=b))) for b in (bias, {1: 60.0})]
    assert [whole(p)[0] for p in gather(handles)] == [by_hand(_plain([4], 5, logit_bias=bias)), [1] * 5]
    assert MOST_BIASES >= 300
    with pytest.raises(BadRequest, match="found 40"):
        engine.submit(request(_plain([4], 5, logit_bias={40: 1.0})))


def test_a_prompt_is_prefilled_in_chunks_between_the_tokens_of_others() -> None:
    decoder = ScriptedDecoder(pages=3000)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    running = engine.submit(request(_plain([1, 2], 60, run_ahead=0)))
    for _ in range(3):
        running.next_piece()
    assert running.slot is not None
    slot, start = running.slot, len(decoder.steps)
    late = [engine.submit(request(_plain([i] * (2500 + i), 2))) for i in (3, 4, 5)]
    made = len(running.generated)
    while not all(h.done for h in late) and not running.done:
        engine.drive(_Once(engine))
    waited = [0]
    for counts, _ in decoder.steps[start:]:
        if slot in counts:
            waited.append(0)
        else:
            waited[-1] += max(counts.values()) * len(counts)
    assert max(waited) <= PREFILL_TOKENS, "more than one chunk between two tokens of a running request"
    assert sum(1 for w in waited if w) >= 7 and len(running.generated) - made >= 7


def test_scoring_runs_in_chunks_between_the_tokens_of_others() -> None:
    decoder = ScriptedDecoder(pages=3000, slots=40)
    decoder.window = 8192  # type: ignore[misc]
    engine = Engine(decoder)
    running = engine.submit(request(_plain([1, 2], 60, run_ahead=0)))
    running.next_piece()
    slot, start = running.slot, len(decoder.steps)
    scores = engine.score([([i] * 300, [[1], [2]]) for i in range(20)])
    assert len(scores) == 20 and len(running.generated) >= 6
    waited = [0]
    for counts, _ in decoder.steps[start:]:
        if slot in counts:
            waited.append(0)
        else:
            waited[-1] += sum(counts.values())
    assert max(waited) <= PREFILL_TOKENS


class _Once:
    """Waits for one step."""

    def __init__(self, engine: Engine) -> None:
        self.ready, self._engine = threading.Condition(engine._lock), engine
        self._until = engine.steps + 1

    @property
    def satisfied(self) -> bool:
        return self._engine.steps >= self._until

    def wake(self) -> None:
        """Nobody sleeps."""


def test_a_full_pool_drops_cached_prefixes_oldest_first_then_pauses_and_ends_nobody() -> None:
    decoder = ScriptedDecoder(pages=24)
    engine = Engine(decoder)
    for start in (0, 10, 20):
        engine.submit(request(_plain(range(start, start + 18), 2))).result()
    assert engine.table.best([*range(20, 38), 1])[1] == 18
    engine.submit(request(_plain([5] * 38, 2))).result()
    assert engine.table.best([*range(20, 38), 1])[1] == 18, "the youngest prefix stays"
    assert engine.table.best([*range(18), 1])[1] == 0, "the oldest went"
    wanted = [_plain([i] * 20, 20) for i in range(6)]
    handles = [engine.submit(request(one)) for one in wanted]
    assert [whole(p)[0] for p in gather(handles)] == [by_hand(one) for one in wanted]
    assert engine.score([([i] * 20, [[1], [2, 3]]) for i in range(8)])[0][0] < 0
    with pytest.raises(RequestTooLarge):
        ScriptedDecoder.window, before = 200, ScriptedDecoder.window
        try:
            engine.submit(request(_plain([1] * (25 * PAGE), 2))).result()
        finally:
            ScriptedDecoder.window = before
    assert whole(engine.submit(request(wanted[0])).result())[0] == by_hand(wanted[0])
    check_cache(engine, decoder, handles)


def test_an_error_of_a_step_under_way_ends_its_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    handle = engine.submit(request(_plain([1, 2], 30, run_ahead=0)))
    for _ in range(3):
        handle.next_piece()
    read = Incoming.read

    def broken(self: Incoming) -> list[Any]:
        monkeypatch.setattr(Incoming, "read", read)
        raise RuntimeError("device lost")

    monkeypatch.setattr(Incoming, "read", broken)
    with pytest.raises(RuntimeError, match="device lost"):
        handle.result()
    other = engine.submit(request(_plain([7], 6)))
    assert whole(other.result())[0] == by_hand(_plain([7], 6))
    check_cache(engine, decoder, [other])


def test_nan_is_refused_before_a_token_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = torch.full((VOCABULARY,), torch.nan)
    monkeypatch.setattr(
        "scripted_decoder.logits_after", lambda ids: bad if ids[0] == 9 else logits_after(ids)
    )
    engine = Engine(ScriptedDecoder())
    good, damaged = (engine.submit(request(_plain([i, 5], 4))) for i in (1, 9))
    with pytest.raises(DamagedCheckpoint, match="NaN"):
        damaged.result()
    assert not damaged.generated and whole(good.result())[0] == by_hand(_plain([1, 5], 4))


def test_a_text_ends_where_the_window_does() -> None:
    decoder = ScriptedDecoder()
    pieces = Engine(decoder).submit(request(_plain([1] * 60, 30))).result()
    assert len(whole(pieces)[0]) == 5 and pieces[-1].finish_reason == "length"
    assert max(len(h) for h in decoder.held) == decoder.window
