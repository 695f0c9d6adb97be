"""The agent's graph, which reads like a turn.

    START -> plan -> documents -> compact -> model <-> tools -> END

    after plan        a tool handles it, or small talk?  skip the documents
    after documents   grounded, or docs="only"?          END
    before model      conversation near the window?      compact, else straight to the model

`plan` comes first, because a message that a tool handles is not looked up in the documents. `model` and
`tools` are LangChain's `create_agent`. The nodes before them are put into the same graph, not around it as a
graph with a subgraph: a thread then has one row of steps (three or four writes before the first word instead
of six), the answer to an approval updates the turn that waits for it, and threads of older versions that wait
in `tools` go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ToolCallLimitMiddleware,
    ToolErrorMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools import tool as tool_of_function
from langgraph.graph import END, START
from langgraph.runtime import Runtime

from agent.guard.approval import Guard
from agent.guard.labels import CLEAN, Labels
from agent.guard.policy import Approve, rule_of
from agent.turn.bounds import Bounds, TurnLimits, describe_failure
from agent.turn.context import AGENT, COMPACT, DOCUMENTS, PLAN, RunContext
from agent.turn.documents import Documents
from agent.turn.state import TurnState, clock_started

if TYPE_CHECKING:
    from agent.planner.planner import Planner
    from agent.turn.compaction import Compaction

Middleware = AgentMiddleware[Any, Any, Any]


def build_graph(
    model: BaseChatModel,
    *,
    tools: Sequence[BaseTool | Callable[..., Any]] = (),
    answerer: Runnable[Any, Any] | None = None,
    planner: Planner | None = None,
    approve: Approve | None = None,
    standing: Labels = CLEAN,
    limits: TurnLimits | None = None,
    max_tool_calls: int = 16,
    system: str | None = None,
    compaction: Compaction | None = None,
    middleware: Sequence[Middleware] = (),
    checkpointer: Any = None,
) -> Any:
    """Return a compiled LangGraph agent.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> agent = build_graph(FakeListChatModel(responses=["Hello."]))
    >>> agent.invoke({"messages": [("user", "Hi")]})["messages"][-1].text
    'Hello.'

    Args:
        model: May call the tools.
        tools: LangChain tools, or plain functions with docstrings. A tool's metadata says what it may do
            (`agent.guard.policy`); without it every call needs approval.
        answerer: A `rag_chain` over the documents; without it there are no documents.
        planner: Routes each turn, and calls the tools of a model that is too small to. Without it the model
            decides everything itself.
        approve: What happens to calls that need approval. By default they are asked about if a checkpointer
            holds the run, else refused.
        standing: Labels of what the model reads in every turn, such as the notes in the system prompt.
        limits: What one turn may use.
        max_tool_calls: Tool calls in one turn.
        system: The system prompt.
        compaction: Keeps a long thread inside the window.
        middleware: More middleware, outside this project's own.
        checkpointer: LangGraph's; keeps threads and waiting approvals.
    """
    given = [as_tool(tool) for tool in tools]
    offered = planner.prepared(given) if planner is not None else given
    setting: Approve = approve or ("ask" if checkpointer is not None else "deny")
    agent = create_agent(
        model,
        offered,
        system_prompt=system,
        middleware=[
            *middleware,
            *_around_tools(offered, setting, standing),
            Bounds(limits or TurnLimits()),
            *([compaction] if compaction is not None else []),
            *([planner] if planner is not None and planner.calls_tools else []),
            *_at_tools(offered, max_tool_calls),
        ],
        state_schema=TurnState,
        context_schema=RunContext,
    )
    documents = Documents(answerer) if answerer is not None else None
    names = frozenset(tool.name for tool in given)

    def plan(state: TurnState, runtime: Runtime[RunContext]) -> dict[str, Any]:
        found = documents is not None
        route = planner.route(state, runtime, tools=names, documents=found) if planner is not None else None
        asked = documents is not None and documents.wanted(state["messages"], route, runtime.context)
        chosen = (runtime.context.approve if runtime.context is not None else None) or setting
        return {
            **clock_started(),
            "approve": chosen,
            "route": route,
            "documents": None,
            "ask_documents": asked,
        }

    # The edges read the state alone, so that a thread can be changed from outside a run (`update_state`).
    def after_plan(state: TurnState) -> str:
        return DOCUMENTS if state.get("ask_documents") else agent_or_compact(state)

    def after_documents(state: TurnState) -> str:
        asked = isinstance(state["messages"][-1], HumanMessage)
        return agent_or_compact(state) if asked else END

    def agent_or_compact(state: TurnState) -> str:
        near = compaction is not None and compaction.near_window(state["messages"])
        return COMPACT if near else AGENT

    graph = agent.builder
    entry = next(end for start, end in graph.edges if start == START)
    graph.edges.remove((START, entry))
    graph.compiled = False  # It is compiled again below, with the turn's own nodes.
    ways: dict[Hashable, str] = {AGENT: entry}
    if compaction is not None:
        ways[COMPACT] = COMPACT
    graph.add_node(PLAN, plan)
    graph.add_edge(START, PLAN)
    if documents is not None:
        graph.add_node(DOCUMENTS, documents.answer)
        graph.add_conditional_edges(DOCUMENTS, after_documents, {**ways, END: END})
        ways = {**ways, DOCUMENTS: DOCUMENTS}
    graph.add_conditional_edges(PLAN, after_plan, ways)
    if compaction is not None:
        graph.add_node(COMPACT, compaction.compact)
        graph.add_edge(COMPACT, entry)
    return graph.compile(checkpointer=checkpointer, name="agent").with_config(agent.config)


def as_tool(given: BaseTool | Callable[..., Any]) -> BaseTool:
    """Return a tool made of a function, or the tool with a synchronous form if it has none.

    >>> def double(number: int) -> int:
    ...     "Return twice the number."
    ...     return 2 * number
    >>> as_tool(double).name
    'double'
    """
    found = given if isinstance(given, BaseTool) else tool_of_function(given)
    if not isinstance(found, StructuredTool) or found.func is not None or found.coroutine is None:
        return found
    work = found.coroutine

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await work(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(awaited(*args, **kwargs))  # Each call of a tool has a thread of its own.

    return found.model_copy(update={"func": call})


def _around_tools(tools: Sequence[BaseTool], approve: Approve, standing: Labels) -> list[Middleware]:
    """Return what stands outside the clock of a tool call: the approval, and the words for a failure."""
    if not tools:
        return []
    guard = Guard(tools, approve=approve, agent_node=AGENT, standing=standing)
    return [guard, ToolErrorMiddleware(describe_failure)]


def _at_tools(tools: Sequence[BaseTool], max_tool_calls: int) -> list[Middleware]:
    """Return LangChain's count of calls, and a second try for tools that read over a broken connection."""
    if not tools:
        return []
    counted: list[Middleware] = [ToolCallLimitMiddleware(run_limit=max_tool_calls)]
    readers: list[BaseTool | str] = [t for t in tools if rule_of(t).kind == "read"]
    if not readers:
        return counted
    retry = ToolRetryMiddleware(
        max_retries=1, tools=readers, retry_on=(ConnectionError,), on_failure="error", initial_delay=0.2
    )
    return [*counted, retry]
