"""The torch-free seams that chains and tools may import: what a model can do beyond LangChain's interface.

Knows LangChain's message and runnable types; refuses to know tensors, tokenizers and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import BaseMessage

Prompt = str | Sequence[BaseMessage]
"""Raw text as it is, or messages that go through the chat template up to the start of the answer."""

ScoreRequest = tuple[Prompt, Sequence[str]]
"""A prompt and the continuations to score after it."""


@runtime_checkable
class Scorer(Protocol):
    """A model that tells how probable given texts are as continuations of a prompt."""

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each continuation (the sum over its tokens).

        Args:
            prompt: Raw text (a `str`), or messages rendered with the chat template and its generation prompt.
            continuations: Texts that follow the prompt directly, a leading space included where one belongs.

        Returns:
            One value (nats, <= 0) per continuation, in order. The end token is not part of it.

        Raises:
            llms.errors.ContextOverflow: The prompt and a continuation are longer than the window.
        """
        ...

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Score many prompts in one batch; what prompts share from their start is prefilled once.

        Args:
            requests: Pairs of a prompt and its continuations, as in `score`.

        Returns:
            One list per request, one value (nats) per continuation, in order.
        """
        ...


def find_scorer(runnable: Any) -> Scorer | None:
    """Find the `Scorer` inside a model, also one wrapped by `.bind()`, `.with_config()` or `.with_retry()`.

    Args:
        runnable: A chat model, an LLM, or a runnable binding around one.

    Returns:
        The first object in the chain of wrappers that scores, or None.
    """
    seen = 0
    while runnable is not None and seen < 32:
        if isinstance(runnable, Scorer):
            return runnable
        runnable = getattr(runnable, "bound", None) or getattr(runnable, "runnable", None)
        seen += 1
    return None
