"""Ends a running turn from outside it: within one token of the model, at once where a tool is waited for.

A graph runs its steps in threads of their own, where an exception in the caller's thread (Ctrl-C) does not
reach them. Knows LangChain's callbacks; refuses to know who wants the end and what becomes of the thread
(`agent.storage.threads.close_turn`).

What one run of the agent may vary without being built anew.

A small frozen value that LangGraph hands to every middleware as `runtime.context`. Knows no policy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import BaseCallbackHandler


class Stopped(BaseException):
    """The turn was ended from outside; not an Exception, so that no handler of errors keeps it alive."""


class Stop(BaseCallbackHandler):
    """A switch for one turn, in its `RunContext`; `set` may be called from any thread or signal handler."""

    raise_error = True  # LangChain swallows what a handler raises unless it says so

    def __init__(self) -> None:
        self._wanted = threading.Event()

    def set(self) -> None:
        """End the turn."""
        self._wanted.set()

    @property
    def wanted(self) -> bool:
        """Whether the end is wanted."""
        return self._wanted.is_set()

    def check(self) -> None:
        """Raise Stopped where the end is wanted."""
        if self.wanted:
            raise Stopped

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Each token of a model is a chance to end."""
        self.check()

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """So is the beginning of a model call."""
        self.check()

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        """So is that of a tool call."""
        self.check()


if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Choices of one turn; a graph invoked without one gets these defaults."""

    docs: Literal["auto", "only", "off"] = "auto"
    """Whether documents are asked first, are the only source, or are left alone."""
    tools: Literal["auto", "off"] = "auto"
    """Whether tools may be used at all."""
    approve: Literal["ask", "deny", "never-ask"] | None = None
    """What happens to a call that needs approval; None takes the graph's own setting."""
    stop: Stop | None = field(default=None, compare=False)
    """Ends the turn from another thread or a signal handler."""
