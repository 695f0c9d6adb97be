"""The described examples that the router learns from, as they lie beside this file.

`route_examples.txt` has messages for each built-in route; `tool_examples.txt` has tools as a user would add
them, with messages that ask for each and near misses that only share its subject. Knows the two files'
forms; refuses to know what is learned from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class ToolExample:
    """A message beside a tool, and whether it asks for that tool."""

    tool: str
    description: str
    message: str
    asks: bool


def read_examples() -> list[tuple[str, str]]:
    """The examples of the built-in routes as (route, message)."""
    route, found = "", []
    for line in _lines("route_examples.txt"):
        if line.startswith("["):
            route = line.strip("[]")
        else:
            found.append((route, line.replace("\\n", "\n")))
    return found


def read_tool_examples() -> list[ToolExample]:
    """The examples of tools that a user adds."""
    tool, description, found = "", "", []
    for line in _lines("tool_examples.txt"):
        if line.startswith("["):
            tool, description = (part.strip() for part in line.strip("[]").split("|"))
            continue
        message = line.removeprefix("- ")
        asks = message == line
        found.append(ToolExample(tool=tool, description=description, message=message, asks=asks))
    return found


def _lines(name: str) -> Iterator[str]:
    text = files("agent").joinpath(name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))
