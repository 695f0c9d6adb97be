"""The agent's graph: LangChain's `create_agent` with this project's middleware, in one fixed order.

Receives model, tools and chains as arguments and knows how they follow each other in a turn. Refuses to
build any of them (`agent.build` does), and to know where a question comes from or how an answer is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from agent.context import RunContext
from agent.documents import DocumentsFirst


def build_graph(
    model: BaseChatModel,
    *,
    tools: Sequence[BaseTool] = (),
    answerer: Runnable[Any, Any] | None = None,
    system: str | None = None,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    checkpointer: Any = None,
) -> Any:
    """A compiled LangGraph agent; `answerer` is a `rag_chain`, or None where there are no documents."""
    first: list[AgentMiddleware[Any, Any, Any]] = [DocumentsFirst(answerer)] if answerer is not None else []
    return create_agent(
        model,
        list(tools),
        system_prompt=system,
        middleware=[*first, *middleware],
        context_schema=RunContext,
        checkpointer=checkpointer,
        name="agent",
    )
