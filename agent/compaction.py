"""Middleware that replaces the oldest turns by a summary before the window is full, and says so.

LangChain's SummarizationMiddleware does the work; here are only the numbers, which come from the model's
own window and tokenizer once it is loaded, and the line for the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware, AgentState, SummarizationMiddleware

from agent.context import RunContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.runtime import Runtime

_KEPT_MESSAGES = 6
_FULL = 0.75
"""Share of what the window has beside the answer; the rest is room for tools and templates."""


class Compaction(AgentMiddleware[AgentState[Any], RunContext, Any]):
    """Keeps a long conversation inside the window."""

    def __init__(self, model: BaseChatModel, *, answer_tokens: int) -> None:
        super().__init__()
        self._model = model
        self._answer_tokens = answer_tokens
        self._inner: SummarizationMiddleware[Any, Any] | None = None

    def before_model(self, state: AgentState[Any], runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """Summarize where the messages come near the window."""
        if len(state["messages"]) <= _KEPT_MESSAGES:
            return None
        return _told(self._middleware().before_model(state, runtime), runtime)

    async def abefore_model(
        self, state: AgentState[Any], runtime: Runtime[RunContext]
    ) -> dict[str, Any] | None:
        """As `before_model`, for asynchronous runs."""
        if len(state["messages"]) <= _KEPT_MESSAGES:
            return None
        return _told(await self._middleware().abefore_model(state, runtime), runtime)

    def _count(self, messages: Iterable[Any]) -> int:
        return self._model.get_num_tokens_from_messages(list(messages))

    def _middleware(self) -> SummarizationMiddleware[Any, Any]:
        if self._inner is None:
            trigger = max(int((_window(self._model) - self._answer_tokens) * _FULL), 256)
            self._inner = SummarizationMiddleware(
                self._model,
                trigger=("tokens", trigger),
                keep=("messages", _KEPT_MESSAGES),
                token_counter=self._count,
                trim_tokens_to_summarize=trigger // 2,
            )
        return self._inner


def _told(change: dict[str, Any] | None, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
    if change:
        text = "the oldest turns were replaced by a summary, the window was nearly full"
        runtime.stream_writer({"type": "notice", "kind": "status", "text": text})
    return change


def _window(model: BaseChatModel) -> int:
    """Tokens of context: as the model's profile says, else 8,192, which every model of the catalog has."""
    profile: Any = getattr(model, "profile", None) or {}
    return int(profile.get("max_input_tokens") or getattr(model, "window", None) or 8192)
