"""Two tools that tests of the chat model bind."""

from __future__ import annotations

from langchain_core.tools import tool


@tool
def get_weather(location: str) -> str:
    """Get the weather at a place."""
    return "sunny"


@tool
def set_timer(minutes: int) -> str:
    """Start a countdown timer."""
    return "started"
