"""The agent's graph: LangChain's `create_agent` with this project's middleware, in one fixed order.

Receives model, tools and chains as arguments and knows how they follow each other in a turn. Refuses to
build any of them (`agent.build` does), and to know where a question comes from or how an answer is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolCallLimitMiddleware, ToolRetryMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from agent.guard.approval import Approve, Gate, asking
from agent.guard.policy import kind_of
from agent.planner.router import Router
from agent.planner.routing import Routing
from agent.planner.steering import Steering
from agent.turn.bounds import Limits, Repetition, ToolLimits, TurnLimits
from agent.turn.context import RunContext
from agent.turn.documents import DocumentsFirst
from agent.turn.opening import Opener, Opening

if TYPE_CHECKING:
    from pathlib import Path

    from agent.planner.text_answers import TextAnswers
    from agent.turn.compaction import Compaction

Middleware = AgentMiddleware[Any, Any, Any]


def build_graph(
    model: BaseChatModel,
    *,
    tools: Sequence[BaseTool] = (),
    answerer: Runnable[Any, Any] | None = None,
    router: Router | None = None,
    steered: bool = False,
    approve: Approve | None = None,
    sandboxed: bool = False,
    limits: TurnLimits | None = None,
    max_tool_calls: int = 16,
    system: str | None = None,
    texts: TextAnswers | None = None,
    folders: Sequence[Path] = (),
    compaction: Compaction | None = None,
    middleware: Sequence[Middleware] = (),
    checkpointer: Any = None,
) -> Any:
    """A compiled LangGraph agent.

    `model` may call the `tools`, under the prompt `system`. Where there are documents, `answerer` is a
    `rag_chain` over them. `router` decides each turn's route; None lets the model plan from the first word.
    `steered` says that the route also picks the tool, for models too small to plan: `texts` then
    answers questions about a text, and `folders` are where files may be read. `approve` says what becomes of
    calls that need approval (it asks by default where a checkpointer holds the run); `sandboxed`, that the
    sandbox's first tier holds, so that write_code's own checks need none. `limits` and `max_tool_calls` bound
    a turn, `compaction` keeps a long thread in the window, `middleware` is more of it, outside this
    project's own, and `checkpointer` keeps threads and waiting approvals (LangGraph's).
    """
    bounds = limits or TurnLimits()
    openers: list[Opener[Any]] = []
    if router is not None:
        names = frozenset(tool.name for tool in tools)
        documents = answerer is not None
        openers.append(Routing(router, names, documents=documents, steered=steered, folders=folders))
    openers += [DocumentsFirst(answerer)] if answerer is not None else []
    openers.append(Limits(bounds))  # before Steering: a turn at its limit calls no tool either
    openers += [compaction] if compaction is not None else []
    return create_agent(
        model,
        list(tools),
        system_prompt=system,
        middleware=[
            *middleware,
            Opening(openers),
            *openers,
            *([Steering(texts)] if steered else []),
            *_approval(tools, approve or ("ask" if checkpointer is not None else "deny"), sandboxed),
            Repetition(),
            *_at_tools(tools, bounds, max_tool_calls, sandboxed),
        ],
        context_schema=RunContext,
        checkpointer=checkpointer,
        name="agent",
    )


def _approval(tools: Sequence[BaseTool], approve: Approve, sandboxed: bool) -> list[Middleware]:
    """Refusal and the question to the user: they stand outside the clock that limits a tool's time."""
    if not tools:
        return []
    gate = Gate(tools, approve=approve, sandboxed=sandboxed)
    return [gate, asking(gate, tools)]


def _at_tools(
    tools: Sequence[BaseTool], bounds: TurnLimits, max_tool_calls: int, sandboxed: bool
) -> list[Middleware]:
    """Our bounds of each call, LangChain's count, and a second try for readers whose connection broke."""
    if not tools:
        return []
    readers: list[BaseTool | str] = [t for t in tools if kind_of(t, sandboxed=sandboxed) == "read"]
    counted: list[Middleware] = [ToolLimits(bounds), ToolCallLimitMiddleware(run_limit=max_tool_calls)]
    if not readers:
        return counted
    retry = ToolRetryMiddleware(
        max_retries=1, tools=readers, retry_on=(ConnectionError,), on_failure="error", initial_delay=0.2
    )
    return [*counted, retry]
