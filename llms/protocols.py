"""What a model can do beyond LangChain's interface, as Protocols that chains and tools may import.

A chain asks for a Protocol, never for a class or an attribute of `ChatLocal`, so any LangChain model can take
part by implementing one. This module imports no torch: it knows LangChain's messages, and no tensors,
tokenizers or weights.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> model = FakeListChatModel(responses=["Hello"]).bind(stop=["."])
    >>> find(model, Scorer) is None, writes_well(model)
    (True, True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from langchain_core.messages import BaseMessage

Prompt = str | Sequence[BaseMessage]
"""Raw text as it is, or messages that go through the chat template up to the start of the answer."""

ScoreRequest = tuple[Prompt, Sequence[str]]
"""A prompt and the continuations to score after it."""

Capability = TypeVar("Capability")


@runtime_checkable
class Scorer(Protocol):
    """A model that returns the log-probability of given texts as continuations of a prompt."""

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each continuation (the sum over its tokens).

        Args:
            prompt: Raw text (a `str`), or messages rendered with the chat template and its generation prompt.
            continuations: Texts that follow the prompt directly, with a leading space if they need one.

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


@runtime_checkable
class WritesWell(Protocol):
    """A model that says whether it can be trusted to write text of its own.

    A small model makes mistakes when it writes but can still rank and score, so chains let it choose among
    sentences instead.
    """

    @property
    def writes_well(self) -> bool:
        """True if the model may write answers, summaries and plans. `ChatLocal` loads itself to tell."""
        ...


@runtime_checkable
class Vocabulary(Protocol):
    """A model whose tokenizer's pieces can be listed, for example to find its fill-in-the-middle marks."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each piece of the vocabulary, added tokens included."""
        ...


@runtime_checkable
class Completing(Protocol):
    """A chat model that also continues raw text, through a completion model on the same weights."""

    def as_completion_model(self) -> Any:
        """Return a completion model (LangChain's `BaseLLM`) on this model's weights, with its settings."""
        ...


@runtime_checkable
class Seeded(Protocol):
    """A model that takes a `seed`, so that the same seed draws the same tokens."""

    seed: int | None


@runtime_checkable
class ToolPicker(Protocol):
    """Picks the tool that a message asks for, in place of a model that is too small to decide.

    `ChatLocal(tool_picker=...)` takes one, and `agent.planner.router.Router` implements it.
    """

    def pick(self, message: str, tools: Mapping[str, str], *, must: bool = False) -> str | None:
        """Return the name of the tool that a message asks for, or None if it asks for none of them.

        Args:
            message: The user's message.
            tools: The description of each tool by its name, at least one.
            must: Whether a tool has to be picked.
        """
        ...


def layers(model: Any) -> Iterator[Any]:
    """Yield `model` and what it wraps, the outermost first and the model proper last.

    Looks inside `.bind()`, `.with_config()` and `.with_retry()`, and at the first model of
    `.with_fallbacks()`. Stops after 32 layers, so a wrapper that holds itself does no harm.
    """
    for _ in range(32):
        if model is None:
            return
        yield model
        model = getattr(model, "bound", None) or getattr(model, "runnable", None)


def find(model: Any, protocol: type[Capability]) -> Capability | None:
    """Return the first layer of `model` that implements `protocol`, or None if there is none.

    Args:
        model: A chat model, an LLM, or a wrapper around one (see `layers`).
        protocol: A runtime-checkable Protocol, such as `Scorer`.
    """
    return next((one for one in layers(model) if isinstance(one, protocol)), None)


def find_scorer(model: Any) -> Scorer | None:
    """Return the `Scorer` inside `model`, or None if it cannot score."""
    return find(model, Scorer)


def writes_well(model: Any) -> bool:
    """Return False if `model` says that it is too small to write well, else True."""
    found = find(model, WritesWell)
    return found is None or found.writes_well
