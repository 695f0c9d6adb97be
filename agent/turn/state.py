"""The state of a thread: its messages, and what belongs to the turn that runs.

It is stored with each step, so its keys are read by later versions, too.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, NotRequired

from langchain.agents.middleware import AgentState
from typing_extensions import TypedDict


class TurnRoute(TypedDict):
    """Where a turn goes: the route's name, the tool that it calls, and the file that the message names."""

    route: str
    tool: str | None
    file: NotRequired[str]


def _latest(before: float, now: float) -> float:
    return max(before, now)


class TurnState(AgentState[Any]):
    """The state of a thread; everything but the messages belongs to the turn that runs."""

    # Resuming a turn can start its clock in the same step as the killed process did, so two values may meet.
    turn_started: NotRequired[Annotated[float, _latest]]
    """Seconds since the epoch, so that the time limit survives a restart."""
    approve: NotRequired[Literal["ask", "deny", "never-ask"]]
    """What happens to calls that need approval, as it was set when the turn began."""
    route: NotRequired[TurnRoute | None]
    ask_documents: NotRequired[bool]
    documents: NotRequired[dict[str, Any] | None]
    """What the documents said to this turn's question, None if they were not asked."""


def clock_started() -> dict[str, Any]:
    """Return the state update that starts the turn's clock.

    It is applied again when a turn is resumed, so that neither the hours after a kill nor the time that a
    person takes to allow a call count against `TurnLimits.seconds`.
    """
    return {"turn_started": time.time()}
