"""Keeps a long conversation inside the model's window, and tells the user what was done.

Well before the window is full, old tool results are left out of what the model is shown. Shortly before, the
oldest turns are replaced by a summary that frees half of the room, so that it happens rarely. LangChain's
ContextEditingMiddleware and SummarizationMiddleware do the work; this file has the numbers, which come from
the model's own window and tokenizer once it is loaded, and the line for the user.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelRequest,
    ModelResponse,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from agent.guard.labels import OWN_INPUT, labels_of, marks
from agent.turn.context import RunContext
from agent.turn.state import TurnState

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.runtime import Runtime

_KEPT_RESULTS = 3
_LONG = 0.5
"""Share of the room from which on old tool results are left out of what the model is shown."""
_FULL = 0.75
"""Share of the room that the conversation may fill. The room is the window without the answer; the last
quarter is for tool definitions and the chat template."""
_KEPT, _SUMMARY = 3 / 8, 1 / 8
"""Shares of that which the newest turns and the summary may take, so that half is free again."""
_TEMPLATE_TOKENS = 32
"""More than any chat template of the catalog adds to a message."""


class Compaction(AgentMiddleware[TurnState, RunContext, Any]):
    """Keeps a long conversation inside the window of `model`."""

    state_schema = TurnState

    def __init__(
        self,
        model: BaseChatModel,
        *,
        answer_tokens: int,
        summarize: Callable[[str], str] | None = None,
    ) -> None:
        """`summarize` makes the summary; without it the model does, with LangChain's own long prompt."""
        super().__init__()
        self._model = model
        self._summarize = summarize
        self._answer_tokens = answer_tokens
        self._summarization: SummarizationMiddleware[Any, Any] | None = None
        self._editing: ContextEditingMiddleware[Any, Any] | None = None

    def near_window(self, messages: Sequence[AnyMessage]) -> bool:
        """Return False if the messages are far from the window, without asking the tokenizer.

        A token is at least one byte, so the bytes bound the tokens from above; what the last model call
        reported counts too. A summary is only made when a turn begins: later, the turn's own question would
        be among the oldest messages.
        """
        if len(messages) <= 2 or not isinstance(messages[-1], HumanMessage):
            return False
        answers = [message for message in messages if isinstance(message, AIMessage)]
        reported = answers[-1].usage_metadata if answers else None
        size = sum(len(message.text.encode()) + _TEMPLATE_TOKENS for message in messages)
        size += sum(len(repr(call).encode()) for answer in answers for call in answer.tool_calls)
        return max(size, reported["total_tokens"] if reported else 0) >= self._trigger()

    def compact(self, state: TurnState, runtime: Runtime[RunContext]) -> dict[str, Any] | None:
        """Replace the oldest turns by a summary if the messages come near the window."""
        change = self._summarizer().before_model(state, runtime)
        if change:
            _mark_summary(change["messages"], state["messages"])
            text = "the oldest turns were replaced by a summary, the window was nearly full"
            runtime.stream_writer({"type": "notice", "kind": "status", "text": text})
        return change

    def wrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], ModelResponse[Any]],
    ) -> ModelResponse[Any] | AIMessage:
        """Leave old tool results out of a long request; the thread keeps them."""
        if not _has_old_results(request):
            return handler(request)
        return self._editor().wrap_model_call(request, handler)

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`, for asynchronous runs."""
        if not _has_old_results(request):
            return await handler(request)
        return await self._editor().awrap_model_call(request, handler)

    def _room(self) -> int:
        """Return the tokens that the window has in addition to the answer."""
        return _window(self._model) - self._answer_tokens

    def _trigger(self) -> int:
        """Return how many tokens of conversation call for a summary."""
        return max(int(self._room() * _FULL), 64)

    def _editor(self) -> ContextEditingMiddleware[Any, Any]:
        if self._editing is None:
            edit = ClearToolUsesEdit(trigger=max(int(self._room() * _LONG), 128), keep=_KEPT_RESULTS)
            self._editing = ContextEditingMiddleware(edits=[edit], token_counter=self._count)
        return self._editing

    def _summarizer(self) -> SummarizationMiddleware[Any, Any]:
        if self._summarization is None:
            trigger = self._trigger()
            self._summarization = SummarizationMiddleware(
                self._model,
                trigger=("tokens", trigger),
                keep=("tokens", int(trigger * _KEPT)),
                token_counter=self._count,
                trim_tokens_to_summarize=trigger // 2 if self._summarize is None else None,
                summarizer=self._summary if self._summarize is not None else None,
            )
        return self._summarization

    def _count(self, messages: Iterable[Any]) -> int:
        return self._model.get_num_tokens_from_messages(list(messages))

    def _summary(self, messages: list[AnyMessage]) -> str:
        """Return the summary of these messages; if it fails, the conversation goes on without one."""
        assert self._summarize is not None
        said = "\n\n".join(message.text for message in messages if message.text)
        try:
            return self._first_sentences(self._summarize(said))
        except Exception as error:  # The turn matters more than what was said long ago.
            return f"(The earlier turns were left out: {type(error).__name__}.)"

    def _first_sentences(self, summary: str) -> str:
        """Return as many sentences as the summary's share of the window holds, at least one."""
        sentences = re.split(r"(?<=[.!?\u3002\uff01\uff1f])\s+", summary.strip())
        limit = int(self._trigger() * _SUMMARY)
        while len(sentences) > 1 and self._count([HumanMessage(" ".join(sentences))]) > limit:
            sentences.pop()
        return " ".join(sentences)


def _has_old_results(request: ModelRequest[RunContext]) -> bool:
    """Return whether any result could be left out; counting tokens and copying messages cost time."""
    return sum(isinstance(message, ToolMessage) for message in request.messages) > _KEPT_RESULTS


def _mark_summary(kept: Sequence[AnyMessage], before: Sequence[AnyMessage]) -> None:
    """Mark the summary as not written by the user, and give it the labels of the text that it replaces."""
    ids = {message.id for message in kept}
    labels = labels_of([message for message in before if message.id not in ids])
    for message in kept:
        if message.additional_kwargs.get("lc_source") == "summarization":
            message.additional_kwargs |= {**marks(labels), OWN_INPUT: ""}


def _window(model: BaseChatModel) -> int:
    """Return the model's window in tokens; if it is unknown, 8,192, which every model of the catalog has."""
    profile: Any = getattr(model, "profile", None) or {}
    return int(profile.get("max_input_tokens") or getattr(model, "window", None) or 8192)
