"""Middleware that begins a turn in one step of the graph, whatever is decided before the model speaks.

LangChain makes a step of each middleware's hook, and a thread writes each step before the next begins:
what five hooks cost before the first word, one step costs once. Runs the openers one after another. Knows
their order; refuses to know what they decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config

from agent.turn.context import RunContext

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

State = TypeVar("State", bound=AgentState[Any])


class Opener(AgentMiddleware[State, RunContext, Any]):
    """A middleware that decides something when a turn begins; it may have other hooks beside."""

    def open_turn(self, state: State, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """What changes in the state; `jump_to` ends the opening, as in a hook of LangChain's."""
        raise NotImplementedError

    async def aopen_turn(self, state: State, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """As `open_turn`, for asynchronous runs; in a thread of its own unless overridden."""
        return await asyncio.to_thread(self.open_turn, state, runtime)


class Opening(AgentMiddleware[AgentState[Any], RunContext, Any]):
    """Runs the openers, each of which sees what those before it have changed.

    One that changes the messages ends the turn, or is the last.
    """

    def __init__(self, openers: Sequence[Opener[Any]]) -> None:
        super().__init__()
        self._openers = tuple(openers)

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: AgentState[Any], runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Open the turn."""
        changed: dict[str, Any] = {}
        for opener in self._openers:
            changed |= opener.open_turn(_with(state, changed), runtime) or {}
            if "jump_to" in changed:
                break
        return changed

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: AgentState[Any], runtime: Runtime[RunContext]) -> dict[str, Any]:
        """As `before_agent`, for asynchronous runs."""
        changed: dict[str, Any] = {}
        for opener in self._openers:
            changed |= await opener.aopen_turn(_with(state, changed), runtime) or {}
            if "jump_to" in changed:
                break
        return changed


def _with(state: AgentState[Any], changed: dict[str, Any]) -> AgentState[Any]:
    return cast("AgentState[Any]", {**state, **changed})
