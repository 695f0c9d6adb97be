"""What has been asked and what tools have said since: one user's turn of a conversation.

Knows messages; refuses to know models and schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from llms.prompts import message_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The last user message and what followed it.

    Attributes:
        question: The user's words.
        answers: What tools said, errors left out.
        answered_by: Names of the tools that said it.
        failures: Number of errors.
        ends_with: `result`, `error`, or `other` (nothing new from a tool).
    """

    question: str
    answers: tuple[str, ...] = ()
    answered_by: frozenset[str] = field(default_factory=frozenset)
    failures: int = 0
    ends_with: str = "other"

    @property
    def over(self) -> bool:
        """Whether tools have said what they can: the last one succeeded, or failed for the second time."""
        return self.ends_with == "result" or (self.ends_with == "error" and self.failures > 1)

    @property
    def text(self) -> str:
        """What arguments may be copied from: the question, then what tools said."""
        return "\n".join([self.question, *self.answers])


def last_turn(messages: Sequence[BaseMessage]) -> Turn:
    """Return the turn that the last messages belong to."""
    places = [place for place, message in enumerate(messages) if isinstance(message, HumanMessage)]
    if not places:
        return Turn(question=message_text(messages[-1]))
    since = messages[places[-1] + 1 :]
    names = {call["id"]: call["name"] for m in since if isinstance(m, AIMessage) for call in m.tool_calls}
    results = [m for m in since if isinstance(m, ToolMessage)]
    good = [m for m in results if m.status != "error"]
    last = messages[-1]
    ends = ("error" if last.status == "error" else "result") if isinstance(last, ToolMessage) else "other"
    return Turn(
        question=message_text(messages[places[-1]]),
        answers=tuple(message_text(m) for m in good),
        answered_by=frozenset(names.get(m.tool_call_id) or m.name or "" for m in good),
        failures=len(results) - len(good),
        ends_with=ends,
    )
