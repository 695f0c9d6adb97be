"""What one run of the agent may vary without being built anew.

A small frozen value that LangGraph hands to every middleware as `runtime.context`. Knows no policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from agent.stop import Stop


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
