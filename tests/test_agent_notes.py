"""Notes for later conversations: kept only if the user asks, in a private file, in every prompt."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import calls, scripted
from langgraph.checkpoint.memory import InMemorySaver

from agent.errors import FolderError, RequestError
from agent.planner.planner import Planner
from agent.planner.router import RouteDecision
from agent.storage.notes import (
    MAX_NOTES,
    add_note,
    asked_to_remember,
    read_notes,
    remove_note,
    system_with_notes,
)
from agent.storage.remember import remember_tool
from agent.turn.events import Approval, Final, stream_events
from agent.turn.graph import build_graph


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("Remember that I like tea.", "I like tea."),
        ("please remember: the code is 4711", "the code is 4711"),
        ("Merk dir, dass Anna meine Schwester ist", "Anna meine Schwester ist"),
        ("Recuerda que vivo en Lima", "vivo en Lima"),
        ("Remember that time in Rome?", None),
        ("Do you remember that film", None),
        ("Remember the Titans", None),
        ("What did I ask you to remember", None),
        ("remember that", None),
    ],
)
def test_what_a_message_asks_to_be_remembered(message: str, what: str | None) -> None:
    assert asked_to_remember(message) == what


def test_notes_are_kept_once_privately_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "home" / "notes.txt"
    assert read_notes(file) == []
    add_note(file, "  I like\n tea ")
    add_note(file, "Ünïcode 茶")
    add_note(file, "I like tea")
    assert read_notes(file) == ["I like tea", "Ünïcode 茶"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and os.listdir(file.parent) == ["notes.txt"]
    assert remove_note(file, 1) == "I like tea" and read_notes(file) == ["Ünïcode 茶"]
    for number in (0, 2, -1):
        with pytest.raises(RequestError, match="from 1 to 1"):
            remove_note(file, number)


def test_notes_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    for text in ("", "  ", "x" * 501):
        with pytest.raises(RequestError, match="1 to 500"):
            add_note(file, text)
    file.write_text("".join(f"note {n}\n" for n in range(MAX_NOTES)))
    with pytest.raises(RequestError, match="agent notes rm"):
        add_note(file, "one more")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FolderError, match="mend the file"):
        read_notes(file)


def test_the_system_prompt_carries_them() -> None:
    assert system_with_notes("Be brief.", []) == "Be brief." and system_with_notes(None, []) is None
    assert system_with_notes("Be brief.", ["I like tea"]) == (
        "Be brief.\n\nWhat the user asked you to remember:\n- I like tea"
    )


class Direct:
    """A router that would answer everything directly."""

    def route(self, message: str, *, available: Any) -> RouteDecision:
        return RouteDecision(route="direct", probability=1.0, reason="fixed")


def test_plain_words_route_to_the_tool_which_asks(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    agent = build_graph(
        scripted("never said"),
        tools=[remember_tool(file)],
        planner=Planner(Direct()),
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "t"}}
    pause = list(stream_events(agent, "Remember that I like tea", config=config))[-1]
    assert isinstance(pause, Approval) and "text: I like tea" in pause.requests[0]["description"]
    assert read_notes(file) == []
    from langgraph.types import Command

    final = list(stream_events(agent, Command(resume={pause.id: {"type": "approve"}}), config=config))[-1]
    assert isinstance(final, Final) and final.text == "I will remember: I like tea"
    assert read_notes(file) == ["I like tea"]


def test_nothing_is_noted_unasked(tmp_path: Path) -> None:
    """A model that wants to note something on its own is refused if nobody approves."""
    file = tmp_path / "notes.txt"
    agent = build_graph(
        scripted(calls("remember", text="the user is sad"), "ok"), tools=[remember_tool(file)]
    )
    list(stream_events(agent, "hello"))
    assert not file.exists()
