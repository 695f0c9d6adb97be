"""The tool `remember`, which keeps a note for later conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from langchain.tools import InjectedState
from langchain_core.tools import BaseTool, StructuredTool

from agent.guard.labels import labels_of
from agent.storage.notes import add_note


def remember_tool(path: Path) -> BaseTool:
    """Return the tool that keeps a note in the file at `path`; it writes, so it asks.

    ```python
    agent = build_graph(model, tools=[remember_tool(settings.folders.notes)])
    ```
    """

    def remember(text: str, messages: Annotated[list[Any], InjectedState("messages")]) -> str:
        own = not labels_of(messages)
        return f"I will remember: {add_note(path, text, own=own)}"

    return StructuredTool.from_function(
        remember,
        name="remember",
        description="Keep a fact for later conversations. Only if the user asks to remember something.",
        metadata={"kind": "write", "reaches": "machine", "result": "own"},
    )
