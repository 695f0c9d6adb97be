"""Typed lines with editing and history (prompt_toolkit); the history file is private."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def _session(history: Path | None) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    from agent.folders import private_file

    kept = FileHistory(str(private_file(history))) if history is not None else InMemoryHistory()
    return PromptSession(history=kept, output=create_output(stdout=sys.stderr))


def read_line(prompt: str, history: Path | None) -> str | None:
    """A line from the keyboard, None at the end of the input; Ctrl-C empties a line that has begun.

    On an empty line it raises KeyboardInterrupt.
    """
    session = _session(history)
    try:
        return str(session.prompt(prompt))
    except EOFError:
        return None
    except KeyboardInterrupt:
        if session.default_buffer.text.strip():
            return ""
        raise
