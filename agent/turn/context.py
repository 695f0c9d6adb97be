"""What one turn may vary without the agent being built again, its stop switch, and the names of its nodes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackHandler
from pydantic import InstanceOf
from pydantic.json_schema import SkipJsonSchema

PLAN, DOCUMENTS, COMPACT, AGENT = "plan", "documents", "compact", "model"
"""Names of the graph's nodes, which threads on the disk contain. `model` is LangChain's name for the node
that calls the agent's model."""


class Stopped(BaseException):
    """The turn was ended from outside. Not an Exception, so that no error handler keeps the turn alive."""


class Stop(BaseCallbackHandler):
    """A switch that ends one turn; `set` may be called from any thread or signal handler.

        >>> stop = Stop()
        >>> context = RunContext(stop=stop)        # stream_events(agent, question, context=context)
        >>> stop.set()                             # Ctrl-C, a button, a timer
        >>> stop.check()
        Traceback (most recent call last):
        agent.turn.context.Stopped

    A graph runs its steps in threads of its own, which an exception in the caller's thread does not reach. A
    running model ends within one token, a tool that is waited for at once. The thread still holds the
    unfinished turn afterwards: see `agent.storage.threads.close_turn`.
    """

    raise_error = True  # LangChain swallows what a handler raises, unless the handler says otherwise.

    def __init__(self) -> None:
        self._wanted = threading.Event()

    def set(self) -> None:
        """End the turn."""
        self._wanted.set()

    @property
    def wanted(self) -> bool:
        """True once the turn is to end."""
        return self._wanted.is_set()

    def check(self) -> None:
        """Raise Stopped if the turn is to end."""
        if self.wanted:
            raise Stopped

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        """Check at each token."""
        self.check()

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """Check before each model call."""
        self.check()

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        """Check before each tool call."""
        self.check()


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Choices for one turn; a graph that is invoked without one gets these defaults.

    >>> RunContext(docs="only").docs, RunContext().tools
    ('only', 'auto')
    """

    docs: Literal["auto", "only", "off"] = "auto"
    """`auto` asks the documents first, `only` never asks the model, `off` leaves the documents alone."""
    tools: Literal["auto", "off"] = "auto"
    approve: Literal["ask", "deny", "never-ask"] | None = None
    """What happens to a call that needs approval; None takes the setting that the graph was built with."""
    stop: SkipJsonSchema[InstanceOf[Stop]] | None = field(default=None, compare=False)
    """Ends the turn from another thread or a signal handler. It has no JSON form."""
