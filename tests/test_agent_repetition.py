"""An answer that repeats itself is ended; one that is only similar to itself is not."""

from __future__ import annotations

from typing import Any

import pytest
from agent_fakes import scripted
from hypothesis import given
from hypothesis import strategies as st

from agent.turn.bounds import repeats, without_repetition
from agent.turn.events import Delta, Final, Notice, astream_events, stream_events
from agent.turn.graph import build_graph

ROUND = "It is a single-threaded, "
LINE = "the model repeated itself, so its answer was ended here"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROUND * 40, True),
        ("An introduction. " + "ha " * 150, True),
        ("x" * 500, True),
        (f"{'word ' * 30}\n" * 6, True),
        (ROUND * 10, False),  # a refrain
        ("".join(f"{n}. The same words in every line of it.\n" for n in range(50)), False),
        (f"{'| --- ' * 20}|\n", False),
        ("", False),
        ("a", False),
        (f"{'A long paragraph. ' * 3}{'Another one that differs. ' * 4}" * 3, False),
    ],
)
def test_repeats(text: str, expected: bool) -> None:
    assert repeats(text) is expected


@given(st.text(min_size=1, max_size=120), st.text(max_size=200))
def test_any_piece_that_is_said_again_and_again_is_found(piece: str, before: str) -> None:
    assert repeats(before + piece * (max(6, 400 // len(piece) + 1) + 1))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"An introduction. {ROUND * 40}", f"An introduction. {ROUND}"),
        (f"a{'b' * 500}", "ab"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_what_is_said_again_and_again_is_kept_once(text: str, kept: str) -> None:
    assert without_repetition(text) == kept.rstrip()


def test_an_answer_that_repeats_itself_is_ended_and_kept_once(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = scripted(ROUND * 2000)
    events = list(stream_events(build_graph(model), "what is it?"))
    final = events[-1]
    assert isinstance(final, Final) and final.text == ROUND.strip()
    assert 400 <= sum(len(event.text) for event in events if isinstance(event, Delta)) < 500
    assert [event.text for event in events if isinstance(event, Notice)] == [LINE]
    assert caplog.records == []


async def test_the_same_asynchronously() -> None:
    events = [event async for event in astream_events(build_graph(scripted(ROUND * 2000)), "what is it?")]
    assert isinstance(events[-1], Final) and len(events[-1].text) < 500
    assert [event.text for event in events if isinstance(event, Notice)] == [LINE]


def test_the_next_turn_begins_afresh() -> None:
    agent = build_graph(scripted(ROUND * 2000, "a plain answer"))
    list(stream_events(agent, "first"))
    assert list(stream_events(agent, "second"))[-1].text == "a plain answer"
