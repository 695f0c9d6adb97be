"""Middleware that decides where a turn goes, before anything else does.

The router weighs the words; a file that the message names and that is there outweighs them. Knows messages,
routes and names of tools; refuses to know how a route is carried out (`agent.planner.steering`,
`agent.turn.documents`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from langchain.agents.middleware import AgentState

from agent.planner.arguments import named_file
from agent.storage.notes import asked_to_remember
from agent.turn.context import RunContext
from agent.turn.documents import question_of
from agent.turn.opening import Opener
from agent.turn.text_at_hand import READER, attached_text

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from agent.planner.router import Decision, Router

TOOL_OF_ROUTE: Mapping[str, str] = {
    "calculator": "calculator",
    "classify": "classify",
    "code": "write_code",
    "file": "read_file",
    "run": "run_python",
    "summarize": "summarize",
}
"""The built-in tool behind each route; `docs` is answered before the model, `direct` needs none."""

WAY_OUT: Mapping[str, str] = {
    "docs": "there are no documents here to look it up in; add some: agent ingest PATH",
    "file": "files are not read unless you say where they lie: --files DIR",
}
"""What to say where a message asks for what is not there."""

_FILE_ROUTES = frozenset({"direct", "docs", "file", "summarize"})
"""Routes that give way to a file which the message names; whoever wants a program may name one, too."""


class RouteState(AgentState[Any]):
    """Adds where this turn goes."""

    route: NotRequired[dict[str, Any] | None]


class Routing(Opener[RouteState]):
    """Decides the route of a turn; a free planner uses it for the documents alone.

    `folders` are those that may be read; with `steered` a file which the message names decides, too.
    """

    state_schema = RouteState

    def __init__(
        self,
        router: Router,
        tools: frozenset[str],
        *,
        documents: bool,
        steered: bool = False,
        folders: Sequence[Path] = (),
    ) -> None:
        super().__init__()
        self._router = router
        self._reads = READER in tools
        self._remembers = "remember" in tools
        self._steered, self._folders = steered, folders
        reachable = {route for route, tool in TOOL_OF_ROUTE.items() if tool in tools}
        self._available = ("direct", *(["docs"] if documents else []), *sorted(reachable))

    def open_turn(self, state: RouteState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        """Route the user's message and tell why."""
        context = runtime.context or RunContext()
        question = question_of(state)
        if question is None or context.docs == "only" or context.tools == "off":
            return {"route": None}
        if self._remembers and asked_to_remember(question):
            return {"route": _told(runtime, "remember", "the message asks for it in plain words")}
        decision = self._router.route(question, available=self._available)
        attached = bool(attached_text(state["messages"][-1]))
        name = None if attached else self._file(question, decision)
        if name is not None:
            route = _told(
                runtime, READER if self._reads else None, f"the message names {name}, which is there"
            )
            return {"route": {**route, "file": name}}
        tool = decision.tool or TOOL_OF_ROUTE.get(decision.route)
        route = _told(runtime, tool, decision.reason, decision.tool or decision.route)
        way_out = None if attached else WAY_OUT.get(decision.missing or "")
        if way_out and not (decision.missing == "docs" and context.docs == "off"):
            runtime.stream_writer({"type": "notice", "kind": "status", "text": way_out})
        return {"route": route}

    def _file(self, question: str, decision: Decision) -> str | None:
        """The file that the turn is about."""
        if not self._steered or decision.tool or (decision.missing or decision.route) not in _FILE_ROUTES:
            return None
        return named_file(question, self._folders)


def _told(
    runtime: Runtime[RunContext], tool: str | None, why: str, shown: str | None = None
) -> dict[str, Any]:
    """The route to a tool, or to none, as the state keeps it; its reason is told."""
    text = f"route {shown or tool or 'file'}: {why}"
    runtime.stream_writer({"type": "notice", "kind": "route", "text": text})
    return {"route": shown or ("tool" if tool else "direct"), "tool": tool}
