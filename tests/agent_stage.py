"""The real command line over a scripted model: `python agent_stage.py FOLDER VERB WORDS…`, or in process.

Everything except the weights is real. The model's answer depends only on the user's last message, so a new
process can go on where a killed one stopped.
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from agent_fakes import calls, scripted
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool

import agent.build
from llms.errors import LLMError

MARKDOWN = "# Title\n\nSome **bold** words and a list that is long enough to be wrapped:\n\n- one\n- two\n"
CODE = "Here it is:\n\n```python\nprint(1)\n```\n\nAnd another:\n\n```\nls\n```\n"


def answer(messages: list[Any]) -> Any:
    """Return the model's answer, which the user's last message decides."""
    asked = next(m for m in reversed(messages) if isinstance(m, HumanMessage)).text
    if isinstance(messages[-1], ToolMessage):
        return f"the tool said: {messages[-1].text}"
    word, _, rest = asked.strip().partition(" ")
    if word == "act":
        return calls("mark", f"call{len(messages):05}", line=rest)
    if word == "slow":
        return " ".join(f"word{n}" for n in range(400))
    if word == "markdown":
        return MARKDOWN
    if word == "code":
        return CODE
    if word == "count":
        return f"{sum(m.type != 'system' for m in messages)} messages"
    if word == "again":
        return "it goes round and " * 100
    if word == "fail":
        raise RuntimeError("the weights are on fire")
    if word == "system":
        return " / ".join(m.text for m in messages if m.type == "system") or "none"
    return f"answer to {' '.join(asked.split())[:60]} ({len(asked.splitlines())} lines)"


def mark_tool(folder: Path) -> BaseTool:
    """Return a tool that appends a line to FOLDER/marks."""

    @tool
    def mark(line: str) -> str:
        """Write a line into the file of marks."""
        with (folder / "marks").open("a") as file:
            file.write(line + "\n")
        return "marked"

    return mark


def staged(folder: Path, *, pace: float = 0.0) -> type[agent.build.Parts]:
    """Return a `Parts` with the scripted model and the tool that writes."""

    class Staged(agent.build.Parts):
        def __init__(self, settings: Any, tools: Any = None, **more: Any) -> None:
            super().__init__(settings, [*(tools or ()), mark_tool(folder)], **more)

        @cached_property
        def model(self) -> Any:
            if self.settings.model == "missing":
                raise LLMError("unknown model 'missing'")
            return scripted(answer, pace=pace, window=self.settings.window or 8192)

    return Staged


if __name__ == "__main__":
    agent.build.Parts = staged(Path(sys.argv[1]), pace=0.02)  # type: ignore[misc]
    from agent.cli.main import main

    sys.exit(main(sys.argv[2:]))
