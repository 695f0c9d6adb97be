"""The agent room: settings, the composition root, the graph and the command line.

Knows every other room and wires them together. Refuses to hold anything that a library user could want
without a command line: chains, tools and models live in their own rooms. Importing this package imports
neither torch nor LangChain: each name is looked up on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.build import Parts, build_agent
    from agent.errors import AgentError
    from agent.settings import Settings, load_settings
    from agent.turn.context import RunContext, Stop, Stopped
    from agent.turn.events import stream_events

__all__ = [
    "AgentError",
    "Parts",
    "RunContext",
    "Settings",
    "Stop",
    "Stopped",
    "build_agent",
    "load_settings",
    "stream_events",
]

_HOMES = {
    "AgentError": "agent.errors",
    "Parts": "agent.build",
    "RunContext": "agent.turn.context",
    "Settings": "agent.settings",
    "Stop": "agent.turn.context",
    "Stopped": "agent.turn.context",
    "build_agent": "agent.build",
    "load_settings": "agent.settings",
    "stream_events": "agent.turn.events",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
