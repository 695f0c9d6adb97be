"""The text that a conversation is about: what came with a message (a pipe, `ask -f`), or a file just read.

A message with such text holds it first, then the user's own words, and says which those are
(`agent.guard.taint`). Knows the forms of messages alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agent.guard.taint import OWN_INPUT, UNTRUSTED

READER = "read_file"


@dataclass(frozen=True, kw_only=True)
class TextAtHand:
    """A text, where it came from, whether a tool read it, and whether it came in this very turn."""

    text: str
    source: str
    read: bool
    fresh: bool


def text_at_hand(messages: Sequence[AnyMessage]) -> TextAtHand | None:
    """The newest text of the conversation, None where there is none."""
    fresh = True
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if isinstance(message, ToolMessage) and message.name == READER and message.status == "success":
            source = _read_from(messages, message.tool_call_id)
            return TextAtHand(text=message.text, source=source, read=True, fresh=fresh)
        if isinstance(message, HumanMessage):
            if text := attached_text(message):
                source = str(message.additional_kwargs.get(UNTRUSTED) or "the text")
                return TextAtHand(text=text, source=source, read=False, fresh=fresh)
            fresh = False
    return None


def attached_text(message: AnyMessage) -> str:
    """The text that came with a message, empty where there is none."""
    own = message.additional_kwargs.get(OWN_INPUT)
    if not isinstance(message, HumanMessage) or not own:
        return ""
    return message.text.removesuffix(str(own)).strip()


def own_words(messages: Sequence[AnyMessage]) -> str | None:
    """What the user said last, without the text that came with it."""
    said = next((m for m in reversed(messages) if isinstance(m, HumanMessage)), None)
    if said is None:
        return None
    return str(said.additional_kwargs.get(OWN_INPUT) or said.text).strip() or None


def spoken(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """What was said before this turn, without tool calls, their results, and texts that came along."""
    begun = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=0)
    said: list[AnyMessage] = []
    for message in messages[:begun]:
        if isinstance(message, HumanMessage):
            said.append(HumanMessage(own_words([message]) or ""))
        elif isinstance(message, AIMessage) and message.text and not message.tool_calls:
            said.append(message)
    return said


def tool_results(messages: Sequence[AnyMessage]) -> list[ToolMessage]:
    """What tools have said since the user last spoke."""
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, ToolMessage):
            results.append(message)
    return results[::-1]


def _read_from(messages: Sequence[AnyMessage], call_id: str) -> str:
    calls = (call for m in messages if isinstance(m, AIMessage) for call in m.tool_calls)
    path = next((call["args"].get("path") for call in calls if call["id"] == call_id), None)
    return str(path or "the file")
