"""Steps launched ahead of the host give the same as steps in turn: requests join, leave, wait, are masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_samples import until
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_decoder import VOCABULARY, ScriptedDecoder, logits_after
from scripted_requests import by_hand, check_cache, decode, limit_steps, plain, request, whole

from llms.decoders.base import Decoder
from llms.decoders.sampling import MOST_BIASES, Sampling
from llms.engine.engine import Engine
from llms.engine.request import Piece
from llms.engine.speculation import AcceptanceTracker
from llms.engine.steps import HostCopy
from llms.engine.stream import Stream, gather
from llms.errors import BadRequest, DamagedCheckpoint

STARTS = ([], list(range(20)), list(range(20, 38)), [5, 6, 7, 8] * 4)
HOWS = (Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_k=9, top_p=0.9, min_p=0.02))
ACTIONS = st.tuples(st.sampled_from(["read", "read", "read", "close", "all"]), st.integers(0, 6))


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    """Return what one request asks for; each use gets a new grammar."""
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


def played(
    engine: Engine, requests: Sequence[dict[str, Any]], schedule: Sequence[tuple[str, int]]
) -> tuple[list[Stream], list[list[Piece]], set[int]]:
    """Submit one request before each action of the schedule, read all, and return what each gave."""
    streams: list[Stream] = []
    seen: list[list[Piece]] = []
    closed: set[int] = set()
    todo = list(requests)
    limit_steps(engine, 2000)
    for action, which in [*schedule, *(("all", i) for i in range(len(requests)))] * 2:
        if todo:
            streams.append(engine.submit(request(todo.pop(0))))
            seen.append([])
        index = which % len(streams)
        if action == "close":
            streams[index].close()
            closed.add(index)
        while index not in closed and (piece := streams[index].next_piece()) is not None:
            seen[index].append(piece)
            if action == "read":
                break
    return streams, seen, closed


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
    draft: int,
) -> None:
    """Requests join one by one, are read in any order or abandoned, and may have to wait for a small pool."""
    decoder = ScriptedDecoder(pages=pages, draft=draft)
    assert isinstance(decoder, Decoder)
    engine = Engine(decoder, max_batch=max_batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            AcceptanceTracker, "pays", lambda acceptance: len(decoder.steps) % 5 < 3
        )  # a scripted step takes no time that could be compared
        streams, seen, closed = played(engine, requests, schedule)
    for index, (wanted, pieces) in enumerate(zip(requests, seen, strict=True)):
        expected = by_hand(wanted)
        turn = Engine(ScriptedDecoder(ahead=False)).submit(request(wanted)).result()
        assert whole(turn)[0] == expected
        if index in closed:
            assert whole(pieces)[0] == expected[: len(whole(pieces)[0])]
        else:
            assert whole(pieces) == whole(turn)
    check_cache(engine, decoder, streams, [streams[i] for i in closed])


def test_a_step_is_launched_before_the_one_ahead_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    read = HostCopy.read
    monkeypatch.setattr(HostCopy, "read", lambda self: (events.append("read"), read(self))[1])
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    step = decoder.step
    monkeypatch.setattr(decoder, "step", lambda *a, **k: (events.append("launch"), step(*a, **k))[1])
    gather(engine.submit_all([request(plain([i], 6)) for i in range(3)]))
    until(lambda: not engine.scheduler.active)
    launches = [i for i, e in enumerate(events) if e == "launch"]
    reads = [i for i, e in enumerate(events) if e == "read"]
    assert len(launches) == 6, "no surplus step where the number of tokens ends the text"
    # one wait for the device in each step, and after the next launch
    assert events[:3] == ["launch", "launch", "read"] and reads[-1] > launches[-1] and len(reads) == 6
    assert [given for _, given in decoder.steps] == [0, 3, 3, 3, 3, 3]
    assert decoder.copies == 0, "tokens go from step to step as they are, while nobody joins or leaves"


def test_a_prompt_that_is_prefilled_first_costs_no_surplus_step() -> None:
    decoder = ScriptedDecoder()
    stream = Engine(decoder).submit(request(plain([1] * 20, 3)))
    assert whole(stream.result())[0] == by_hand(plain([1] * 20, 3))
    assert [given for _, given in decoder.steps] == [0, 1, 1]


def test_an_end_token_costs_one_step_and_leaves_nothing() -> None:
    expected = by_hand(plain([3, 1], 12))
    end = frozenset({expected[5]})
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    stream = engine.submit(request(plain([3, 1], 12, end_ids=end)))
    pieces = stream.result()
    made = by_hand(plain([3, 1], 12, end_ids=end))
    assert whole(pieces)[0] == made and pieces[-1].finish_reason == "stop"
    assert len(decoder.steps) == len(made) + 1
    check_cache(engine, decoder, [stream])
    again = engine.submit(request(plain([3, 1, *made], 4)))
    again.result()
    assert again.cached_tokens == 0, "shorter than what is worth keeping"


def test_who_joins_and_leaves_disturbs_nobody() -> None:
    decoder = ScriptedDecoder(pause=0.003)
    engine = Engine(decoder)
    long = engine.submit(request(plain([1, 2, 3], 30, run_ahead=0)))
    head = [long.next_piece() for _ in range(4)]
    others = [engine.submit(request(plain([i, 9], 3 + i))) for i in range(4)]
    gather(others[:2])
    others[2].close()
    tail = long.result()
    assert whole([*(p for p in head if p), *tail])[0] == by_hand(plain([1, 2, 3], 30))
    assert [whole(o.result())[0] for o in (others[3],)] == [by_hand(plain([3, 9], 6))]
    mixed = [counts for counts, given in decoder.steps if 0 < given < len(counts)]
    assert mixed, "who joins steps together with those under way"
    check_cache(engine, decoder, [long, *others], others[2:3])


def test_several_answers_to_one_prompt_prefill_it_once() -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    wanted = [
        plain([*range(38), 5, 9], 6 + i, sampling=Sampling(temperature=1.0, seed=i), top_logprobs=i or None)
        for i in range(4)
    ]
    streams = [engine.submit(request(one)) for one in wanted]
    assert [whole(p)[0] for p in gather(streams)] == [by_hand(one) for one in wanted]
    assert [h.cached_tokens for h in streams] == [0, 39, 39, 39]
    check_cache(engine, decoder, streams)


def test_a_grammar_waits_for_the_host_and_the_rest_gives_the_same() -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    wanted = [plain([4, 5], 10), plain([6, 7], 10), plain([8], 20, repetition_penalty=1.5)]
    wanted[1]["constraint"] = 8
    streams = [engine.submit(request(one)) for one in wanted]
    assert [whole(p)[0] for p in gather(streams)] == [by_hand(one) for one in wanted]
    joint = [given for counts, given in decoder.steps if len(counts) == 3]
    assert not any(joint), "a step with a masked row is given tokens that the host has seen"
    assert any(given for counts, given in decoder.steps if len(counts) < 3)


def test_long_lists_of_biases_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llms.engine.request.MOST_BIASES", 3)
    bias = {i: -50.0 for i in range(30)}
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    streams = [engine.submit(request(plain([4], 5, logit_bias=b))) for b in (bias, {1: 60.0})]
    assert [whole(p)[0] for p in gather(streams)] == [by_hand(plain([4], 5, logit_bias=bias)), [1] * 5]
    assert MOST_BIASES >= 300
    with pytest.raises(BadRequest, match="found 40"):
        engine.submit(request(plain([4], 5, logit_bias={40: 1.0})))


def test_an_error_of_a_step_under_way_ends_its_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ScriptedDecoder()
    engine = Engine(decoder)
    stream = engine.submit(request(plain([1, 2], 30, run_ahead=4)))
    for _ in range(3):
        stream.next_piece()
    read = HostCopy.read

    def broken(self: HostCopy) -> list[Any]:
        monkeypatch.setattr(HostCopy, "read", read)
        raise RuntimeError("device lost")

    monkeypatch.setattr(HostCopy, "read", broken)
    with pytest.raises(RuntimeError, match="device lost"):
        stream.result()
    other = engine.submit(request(plain([7], 6)))
    assert whole(other.result())[0] == by_hand(plain([7], 6))
    check_cache(engine, decoder, [other])


def test_nan_is_refused_before_a_token_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = torch.full((VOCABULARY,), torch.nan)
    monkeypatch.setattr(
        "scripted_decoder.logits_after", lambda ids: bad if ids[0] == 9 else logits_after(ids)
    )
    engine = Engine(ScriptedDecoder())
    good, damaged = (engine.submit(request(plain([i, 5], 4))) for i in (1, 9))
    with pytest.raises(DamagedCheckpoint, match="NaN"):
        damaged.result()
    assert not damaged.generated and whole(good.result())[0] == by_hand(plain([1, 5], 4))


def test_a_text_ends_where_the_window_does() -> None:
    decoder = ScriptedDecoder()
    pieces = Engine(decoder).submit(request(plain([1] * 60, 30))).result()
    assert len(whole(pieces)[0]) == 5 and pieces[-1].finish_reason == "length"
    assert max(len(h) for h in decoder.held) == decoder.window
