"""How the messages of a turn and of a thread are read.

A message of the user may carry text that is not theirs (a pipe, `ask -f`). It then holds that text first and
the user's words last, and `additional_kwargs` says which those are (`agent.guard.labels`). Everything that
needs the question asks `question_of`.

    >>> message = user_message("What failed?", attached="error: disk full", origin="build.log")
    >>> question_of([message]), attached_text(message)
    ('What failed?', 'error: disk full')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agent.guard.labels import OWN_INPUT, both, labelled, labels_of

if TYPE_CHECKING:
    from chains.retrieval.reading import Section

READER = "read_file"
"""The tool whose results are texts that later questions may be about."""
SECTIONS = "sections"
"""Key in a message's `additional_kwargs`: the sections of the attached text, as lists of their fields."""


def user_message(
    question: str, *, attached: str = "", origin: str = "", sections: Sequence[Section] = ()
) -> HumanMessage:
    """Return the message that asks `question` about the text `attached`, which came from `origin`.

    `sections` say where the parts of the text stand in their files. If there is no question, the attached
    text is what the turn is about, but it is not the user's own words.
    """
    if not attached:
        return HumanMessage(question)
    lead = len(attached) - len(attached.lstrip())
    text = attached[lead:]
    marks: dict[str, Any] = {OWN_INPUT: question}
    if sections:
        marks[SECTIONS] = [
            [max(one.start - lead, 0), one.end - lead, one.source, one.title, one.heading, one.page, one.line]
            for one in sections
        ]
    text = f"{text}\n\n{question}" if question else text
    return labelled(HumanMessage(text, additional_kwargs=marks), both(origin))


def question_of(messages: Sequence[AnyMessage]) -> str | None:
    """Return the question of the user's last message, without the text that came with it, or None."""
    asked = next((m for m in reversed(messages) if isinstance(m, HumanMessage)), None)
    if asked is None:
        return None
    return str(asked.additional_kwargs.get(OWN_INPUT) or asked.text).strip() or None


def attached_text(message: AnyMessage) -> str:
    """Return the text that came with a message of the user, "" if none did."""
    own = message.additional_kwargs.get(OWN_INPUT)
    if not isinstance(message, HumanMessage) or not own:
        return ""
    return message.text.removesuffix(str(own)).strip()


def since_user(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the messages after the user's last one."""
    return list(messages[_turn_start(messages) + 1 :])


def tool_results(messages: Sequence[AnyMessage]) -> list[ToolMessage]:
    """Return what tools have answered since the user's last message."""
    return [message for message in since_user(messages) if isinstance(message, ToolMessage)]


def before_turn(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the messages of earlier turns, with each result that ended its turn as an answer of the model's.

    A tool with `return_direct` ends the turn with its result: the thread holds a tool message there, but what
    the user read was an answer.
    """
    earlier = messages[: max(_turn_start(messages), 0)]
    closing = _closing_results(earlier)
    return [AIMessage(m.text) if place in closing else m for place, m in enumerate(earlier)]


def history(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return what was said in earlier turns, without tool calls, their results and attached texts."""
    said: list[AnyMessage] = []
    for message in before_turn(messages):
        if isinstance(message, HumanMessage):
            said.append(HumanMessage(question_of([message]) or ""))
        elif isinstance(message, AIMessage) and message.text and not message.tool_calls:
            said.append(message)
    return said


def read_by_user(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the messages of a thread that the user wrote or read: questions, answers and summaries."""
    closing = _closing_results(messages)
    return [
        message
        for place, message in enumerate(messages)
        if isinstance(message, HumanMessage)
        or (isinstance(message, AIMessage) and message.text)
        or place in closing
    ]


@dataclass(frozen=True, kw_only=True)
class TextAtHand:
    """A text that the conversation is about: a tool has `read` it, or it came with a message.

    `fresh` says that it came in this turn. `sections` are (start, end, source, title, heading, page, line) of
    its parts, if they are known.
    """

    text: str
    source: str
    read: bool
    fresh: bool
    sections: Sequence[Sequence[Any]] = ()


def text_at_hand(messages: Sequence[AnyMessage]) -> TextAtHand | None:
    """Return the newest text that was read or attached, None if there is none."""
    fresh = True
    for message in reversed(messages):
        if isinstance(message, ToolMessage) and message.name == READER and message.status == "success":
            source = _path_read(messages, message.tool_call_id)
            return TextAtHand(text=message.text, source=source, read=True, fresh=fresh)
        if isinstance(message, HumanMessage):
            if text := attached_text(message):
                source = next(iter(labels_of([message]).untrusted), "the text")
                sections = message.additional_kwargs.get(SECTIONS) or ()
                return TextAtHand(text=text, source=source, read=False, fresh=fresh, sections=sections)
            fresh = False
    return None


def _turn_start(messages: Sequence[AnyMessage]) -> int:
    """Return the place of the user's last message, -1 if there is none."""
    return max((i for i, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)


def _closing_results(messages: Sequence[AnyMessage]) -> set[int]:
    """Return the places of the tool messages that ended their turn."""
    places: set[int] = set()
    closing = True
    for place in range(len(messages) - 1, -1, -1):
        if isinstance(messages[place], ToolMessage):
            places |= {place} if closing else set()
        else:
            closing = isinstance(messages[place], HumanMessage)
    return places


def _path_read(messages: Sequence[AnyMessage], call_id: str) -> str:
    calls = (call for m in messages if isinstance(m, AIMessage) for call in m.tool_calls)
    path = next((call["args"].get("path") for call in calls if call["id"] == call_id), None)
    return str(path or "the file")
