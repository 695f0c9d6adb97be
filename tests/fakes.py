"""Fakes with LangChain's own interfaces: chat models that follow a script, retrievers, embeddings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.retrievers import BaseRetriever
from numpy.typing import NDArray
from pydantic import Field


class ScriptedChat(BaseChatModel):
    """Gives `replies` one after another, in chunks of `pieces` characters; keeps every prompt in `seen`.

    A callable reply is called with the prompt. The last reply is repeated as often as needed.
    """

    replies: list[str | Callable[[list[BaseMessage]], str]]
    pieces: int = 7
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _next(self, messages: list[BaseMessage]) -> str:
        self.seen.append(messages)
        reply = self.replies[min(len(self.seen), len(self.replies)) - 1]
        return reply if isinstance(reply, str) else reply(messages)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._next(messages)))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        text = self._next(messages)
        for start in range(0, len(text), self.pieces):
            yield ChatGenerationChunk(message=AIMessageChunk(content=text[start : start + self.pieces]))


class ScoringChat(ScriptedChat):
    """A scripted chat model that also scores: words that occur in the prompt are more probable."""

    replies: list[str | Callable[[list[BaseMessage]], str]] = Field(default=["no reply"])
    scored: list[tuple[Any, list[str]]] = Field(default_factory=list)
    writes_well: bool = False

    def score(self, prompt: str | Sequence[BaseMessage], continuations: Sequence[str]) -> list[float]:
        """Return scores by the number of shared words."""
        self.scored.append((prompt, list(continuations)))
        text = prompt if isinstance(prompt, str) else " ".join(str(message.text) for message in prompt)
        held = re.findall(r"\w+", text.lower())
        scores = []
        for continuation in continuations:
            asked = re.findall(r"\w+", continuation.lower())
            scores.append(-sum(3.0 - min(held.count(word), 2) for word in asked) - 0.01 * len(continuation))
        return scores

    def score_many(
        self, requests: Sequence[tuple[str | Sequence[BaseMessage], Sequence[str]]]
    ) -> list[list[float]]:
        """Return the scores of each request."""
        return [self.score(prompt, continuations) for prompt, continuations in requests]


class StaticRetriever(BaseRetriever):
    """Returns the same documents for every question; keeps the questions in `asked`."""

    documents: list[Document]
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        self.asked.append(query)
        return self.documents


class WordEmbeddings(Embeddings):
    """Bag-of-words vectors: each word is a fixed random direction, so texts that share words are similar."""

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the sum of the directions of each text's words."""
        self.calls += 1
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one text."""
        return self._vector(text)

    def _vector(self, text: str) -> list[float]:
        total = np.full(self.dimension, 1e-6)
        for word in re.findall(r"\w+", text.lower()):
            total += _direction(word, self.dimension)
        return [float(value) for value in total]


@lru_cache(maxsize=10_000)
def _direction(word: str, dimension: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(dimension)


class RawModel(BaseLLM):
    """A completion model that gives `texts` one after another; keeps prompts and options in `seen`."""

    texts: list[str]
    n: int = 1
    temperature: float = 0.7
    seed: int | None = None
    max_tokens: int = 64
    pieces: int = 5
    seen: list[tuple[str, dict[str, Any]]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "raw"

    def _next(self, prompt: str, options: dict[str, Any]) -> str:
        self.seen.append((prompt, options))
        return self.texts[min(len(self.seen), len(self.texts)) - 1]

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        count = kwargs.get("n", 1)
        rows = [[Generation(text=self._next(one, kwargs)) for _ in range(count)] for one in prompts]
        return LLMResult(generations=rows)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        text = self._next(prompt, kwargs)
        for start in range(0, len(text), self.pieces):
            yield GenerationChunk(text=text[start : start + self.pieces])
