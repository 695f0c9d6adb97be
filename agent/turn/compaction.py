"""Middleware that keeps a long conversation inside the window, and says what it did.

Long before the window is full the model is no longer shown old tool results; shortly before, the oldest turns
are replaced by a summary, down to half of that, so that it happens rarely. LangChain's
ContextEditingMiddleware and SummarizationMiddleware do the work; here are only the numbers, which come from
the model's own window and tokenizer once it is loaded, and the line for the user.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import (
    AgentState,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelRequest,
    ModelResponse,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agent.guard.taint import OWN_INPUT, UNTRUSTED, untrusted_sources
from agent.turn.context import RunContext
from agent.turn.opening import Opener

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.runtime import Runtime

_KEPT_RESULTS = 3
_LONG = 0.5
"""Share of the same room from which on old tool results are left out of what the model is shown."""
_FULL = 0.75
"""Share of what the window has beside the answer; the rest is room for tools and templates."""
_KEPT, _SUMMARY = 3 / 8, 1 / 8
"""Shares of that which the newest turns and the summary may take: half is free again for what comes."""


class Compaction(Opener[AgentState[Any]]):
    """Keeps a long conversation inside the window."""

    def __init__(
        self,
        model: BaseChatModel,
        *,
        answer_tokens: int,
        summarize: Callable[[str], str] | None = None,
    ) -> None:
        """`summarize` makes the summary; without it the model does, under LangChain's own long prompt."""
        super().__init__()
        self._model = model
        self._summarize = summarize
        self._answer_tokens = answer_tokens
        self._inner: SummarizationMiddleware[Any, Any] | None = None
        self._editing: ContextEditingMiddleware[Any, Any] | None = None

    def open_turn(self, state: AgentState[Any], runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """Summarize where the messages come near the window."""
        if not _may_summarize(state["messages"]):
            return None
        return _told(self._middleware().before_model(state, runtime), state, runtime)

    async def aopen_turn(self, state: AgentState[Any], runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """As `open_turn`, for asynchronous runs."""
        if not _may_summarize(state["messages"]):
            return None
        return _told(await self._middleware().abefore_model(state, runtime), state, runtime)

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Leave old tool results out of the request where it is long; the thread keeps them."""
        if not _has_old_results(request):
            return handler(request)
        return self._edit().wrap_model_call(request, handler)

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        if not _has_old_results(request):
            return await handler(request)
        return await self._edit().awrap_model_call(request, handler)

    def _room(self) -> int:
        """Tokens that the window has beside the answer."""
        return _window(self._model) - self._answer_tokens

    def _trigger(self) -> int:
        """Tokens of conversation that call for a summary."""
        return max(int(self._room() * _FULL), 64)

    def _edit(self) -> ContextEditingMiddleware[Any, Any]:
        if self._editing is None:
            edit = ClearToolUsesEdit(trigger=max(int(self._room() * _LONG), 128), keep=_KEPT_RESULTS)
            self._editing = ContextEditingMiddleware(edits=[edit], token_counter=self._count)
        return self._editing

    def _count(self, messages: Iterable[Any]) -> int:
        return self._model.get_num_tokens_from_messages(list(messages))

    def _middleware(self) -> SummarizationMiddleware[Any, Any]:
        if self._inner is None:
            trigger = self._trigger()
            self._inner = SummarizationMiddleware(
                self._model,
                trigger=("tokens", trigger),
                keep=("tokens", int(trigger * _KEPT)),
                token_counter=self._count,
                trim_tokens_to_summarize=trigger // 2 if self._summarize is None else None,
                summarizer=self._summary if self._summarize is not None else None,
            )
        return self._inner

    def _summary(self, messages: list[AnyMessage]) -> str:
        """The summary of these messages; a conversation that cannot be summarized goes on without one."""
        assert self._summarize is not None
        said = "\n\n".join(message.text for message in messages if message.text)
        try:
            return self._shortened(self._summarize(said))
        except Exception as error:  # the turn matters more than what was said long ago
            return f"(The earlier turns were left out: {type(error).__name__}.)"

    def _shortened(self, summary: str) -> str:
        """The first sentences of a summary, as many as its share of the window holds; at least one."""
        sentences = re.split(r"(?<=[.!?\u3002\uff01\uff1f])\s+", summary.strip())
        limit = int(self._trigger() * _SUMMARY)
        while len(sentences) > 1 and self._count([HumanMessage(" ".join(sentences))]) > limit:
            sentences.pop()
        return " ".join(sentences)


def _may_summarize(messages: list[AnyMessage]) -> bool:
    """Only between turns: in the middle of one its own question would be among the oldest messages."""
    return len(messages) > 2 and isinstance(messages[-1], HumanMessage)


def _has_old_results(request: ModelRequest[RunContext]) -> bool:
    """Whether there is anything that could be left out: counting tokens and copying messages has a price."""
    return sum(isinstance(message, ToolMessage) for message in request.messages) > _KEPT_RESULTS


def _told(
    change: dict[str, Any] | None, state: AgentState[Any], runtime: Runtime[RunContext]
) -> dict[str, Any] | None:
    """Say what happened, and mark the summary: it is no word of the user's, and as tainted as its sources."""
    if change:
        kept = {message.id for message in change["messages"]}
        sources = untrusted_sources([m for m in state["messages"] if m.id not in kept])
        for message in change["messages"]:
            if message.additional_kwargs.get("lc_source") == "summarization":
                message.additional_kwargs[OWN_INPUT] = ""
                if sources:
                    message.additional_kwargs[UNTRUSTED] = f"a summary with {sources[0].origin}"
        text = "the oldest turns were replaced by a summary, the window was nearly full"
        runtime.stream_writer({"type": "notice", "kind": "status", "text": text})
    return change


def _window(model: BaseChatModel) -> int:
    """Tokens of context: as the model's profile says, else 8,192, which every model of the catalog has."""
    profile: Any = getattr(model, "profile", None) or {}
    return int(profile.get("max_input_tokens") or getattr(model, "window", None) or 8192)
