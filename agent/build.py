"""The composition root: the one place where models, stores, chains, tools and the graph are built and wired.

Every part is built on first use and kept, so that a command pays only for what it needs. Knows how parts fit
together; refuses to know what any of them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agent.settings import Settings

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from chains.retrieval import DocumentStore
    from llms import ChatLocal


class Parts:
    """Everything that one set of settings leads to, each part built on first use."""

    def __init__(self, settings: Settings, tools: Sequence[BaseTool] | None = None) -> None:
        self.settings = settings
        self._tools = tools

    @cached_property
    def model(self) -> ChatLocal:
        """The chat model; its weights load on its first use."""
        from llms import ChatLocal

        s = self.settings
        return ChatLocal(
            model=s.model,
            quantization=s.quantization,
            adapter=str(s.adapter) if s.adapter else None,
            device=s.device,
            decoder=s.decoder,
            require_gpu=s.require_gpu,
            temperature=s.temperature,
            top_p=s.top_p,
            max_tokens=s.max_tokens,
            repetition_penalty=s.repetition_penalty,
            seed=s.seed,
            window=s.window,
            cache_dir=s.folders.cache,
        )

    @cached_property
    def store(self) -> DocumentStore:
        """The document store at the settings' folder."""
        from chains.retrieval import DocumentStore

        return DocumentStore(self.settings.store, chroma=self.settings.chroma)

    def close(self) -> None:
        """Let go of the store's files; a store that is not closed has its index checked at the next start."""
        if "store" in self.__dict__:
            self.store.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_documents(self) -> bool:
        """Whether there is a store with at least one document; makes no folder and loads no embedder."""
        return self.settings.store.exists() and bool(self.store.sources())

    @cached_property
    def answerer(self) -> Runnable[Any, Any]:
        """The chain that answers from the documents."""
        from chains import rag_chain

        return rag_chain(
            self.model, self.store.retriever(k=self.settings.k), embeddings=self.store.embeddings
        )

    @cached_property
    def tools(self) -> list[BaseTool]:
        """The tools given by the caller."""
        return list(self._tools or ())

    def agent(self, *, documents: bool = True, checkpointer: Any = None) -> Any:
        """The compiled graph; with `documents` the store is asked first where it holds any."""
        from agent.graph import build_graph

        return build_graph(
            self.model,
            tools=self.tools,
            answerer=self.answerer if documents and self.has_documents() else None,
            system=self.settings.system,
            checkpointer=checkpointer,
        )


def build_agent(
    settings: Settings, tools: Sequence[BaseTool] | None = None, *, checkpointer: Any = None
) -> Any:
    """A compiled LangGraph agent for `settings`, with `tools` added to it.

    Invoke it with `{"messages": [...]}`; `agent.stream_events` reads its streams. Raises the errors of the
    rooms whose parts it builds.
    """
    return Parts(settings, tools).agent(checkpointer=checkpointer)
