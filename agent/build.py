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
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from agent.compaction import Compaction
    from agent.mcp_client import McpServers
    from agent.otel import GenAISpans
    from agent.router import Router
    from agent.text_answers import TextAnswers
    from chains.retrieval import DocumentStore
    from llms import ChatLocal, LocalLLM
    from sandbox import Sandbox


class Parts:
    """Everything that one set of settings leads to; use it as a context manager to close the store.

    `tools` are added to the built-in ones, `search_filter` narrows what the documents are asked for.
    """

    def __init__(
        self,
        settings: Settings,
        tools: Sequence[BaseTool] | None = None,
        *,
        search_filter: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self._added = list(tools or ())
        self._filter = search_filter or None

    def close(self) -> None:
        """Let go of the store's files and of MCP servers."""
        if "store" in self.__dict__:
            self.store.close()
        if "mcp" in self.__dict__:
            self.mcp.close()

    def changed(self, values: dict[str, Any]) -> Parts:
        """Parts of the same tools and filter, with some settings of other values."""
        fresh = object.__new__(type(self))  # of the same class, and without what was built already
        fresh.settings = type(self.settings).model_construct(**{**self.settings.model_dump(), **values})
        fresh._added, fresh._filter = self._added, self._filter
        return fresh

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def model(self) -> ChatLocal:
        """The chat model; its weights load on its first use."""
        from llms import ChatLocal

        return ChatLocal(**self._model_fields(), tool_scorer=self._likeness)

    def _likeness(self, message: str, descriptions: Sequence[str]) -> list[float]:
        """Return the cosine of a message to each description of a tool: what helps a small model to pick."""
        import numpy as np

        vectors = np.asarray(self.embeddings.embed_documents(list(descriptions)))
        query = np.asarray(self.embeddings.embed_query(message))
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        return [float(value) for value in vectors @ query / np.maximum(norms, 1e-12)]

    @cached_property
    def completion_model(self) -> LocalLLM:
        """The same weights as a model of raw text."""
        from llms import LocalLLM

        return LocalLLM(**self._model_fields())

    def _model_fields(self) -> dict[str, Any]:
        from llms.registry import Registry

        s = self.settings
        registry = Registry(s.folders.cache, s.folders.config)
        return {
            "model": registry.resolve(registry.default if s.model == "auto" else s.model),
            "quantization": s.quantization,
            "adapter": str(s.adapter) if s.adapter else None,
            "merge_adapter": s.merge_adapter,
            "device": s.device,
            "decoder": s.decoder,
            "require_gpu": s.require_gpu,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "max_tokens": s.max_tokens,
            "repetition_penalty": s.repetition_penalty,
            "seed": s.seed,
            "window": s.window,
            "cache_dir": s.folders.cache,
        }

    @cached_property
    def store(self) -> DocumentStore:
        """The document store at the settings' folder."""
        from chains.retrieval import DocumentStore

        s = self.settings
        return DocumentStore(s.store, chroma=s.chroma, precision=s.embedding_precision)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The embedder: the store's own where there is a store, else the one that ships."""
        if self.settings.store.exists():
            return self.store.embeddings
        from chains.retrieval import default_embeddings

        return default_embeddings()

    def has_documents(self) -> bool:
        """Whether there is a store with at least one document; makes no folder and loads no embedder."""
        return self.settings.store.exists() and not self.store.empty

    @cached_property
    def retriever(self) -> BaseRetriever:
        """What finds passages in the store."""
        return self.store.retriever(k=self.settings.k, filter=self._filter)

    @cached_property
    def answerer(self) -> Runnable[Any, Any]:
        """The chain that answers from the documents."""
        from chains import rag_chain

        return rag_chain(self.model, self.retriever, embeddings=self.store.embeddings)

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where generated code runs."""
        from sandbox import Sandbox

        return Sandbox()

    @cached_property
    def tools(self) -> list[BaseTool]:
        """The built-in tools, those of the MCP servers, and those the caller added; names are unique."""
        from agent.toolbox import join_tools

        return join_tools(self.own_tools, self.mcp.tools() if self.settings.mcp else [], self._added)

    @cached_property
    def own_tools(self) -> list[BaseTool]:
        """The built-in tools."""
        from agent.toolbox import built_in_tools

        return built_in_tools(self)

    @cached_property
    def mcp(self) -> McpServers:
        """The connections to the MCP servers of the settings."""
        from agent.mcp_client import McpServers

        return McpServers(self.settings.mcp)

    @cached_property
    def router(self) -> Router:
        """Decides the route of a message; tools that are not built in are routed by their descriptions."""
        from agent.policy import BUILT_IN
        from agent.router import Router

        own = {tool.name: tool.description for tool in self.tools if tool.name not in BUILT_IN}
        return Router(self.embeddings, cache=self.settings.folders.cache, tools=own)

    @property
    def steered(self) -> bool:
        """Whether the router plans: as the setting says, else where the model says it is small."""
        from chains.rag import writes_well

        return self.settings.planner == "routed" or (
            self.settings.planner == "auto" and not writes_well(self.model)
        )

    @cached_property
    def sandboxed(self) -> bool:
        """Whether the sandbox's first tier holds, so that write_code's own checks need no approval."""
        from agent.toolbox import first_tier_holds

        return first_tier_holds()

    @cached_property
    def spans(self) -> GenAISpans:
        """The OpenTelemetry exporter; raises ConfigError without the extra."""
        from agent.otel import exporting_spans

        return exporting_spans()

    def agent(self, *, documents: bool = True, tools: bool = True, checkpointer: Any = None) -> Any:
        """The compiled graph; with `documents` the store is asked first where it holds any."""
        from agent.graph import build_graph
        from agent.limits import TurnLimits
        from agent.notes import read_notes, system_with_notes

        s = self.settings
        offered = self.tools if tools else []
        limits = TurnLimits(
            steps=s.max_steps,
            seconds=s.max_seconds,
            tokens=s.max_turn_tokens,
            tool_seconds=s.tool_timeout_s,
            tool_chars=s.max_tool_chars,
        )
        return build_graph(
            self.model,
            tools=offered,
            answerer=self.answerer if documents and self.has_documents() else None,
            router=self.router if offered else None,
            steered=bool(offered) and self.steered,
            approve=s.approve,
            sandboxed=bool(offered) and self.sandboxed,
            limits=limits,
            max_tool_calls=s.max_tool_calls,
            system=system_with_notes(s.system, read_notes(s.folders.notes)),
            texts=self._texts() if offered and self.steered else None,
            folders=s.files,
            compaction=self._compaction() if checkpointer is not None else None,
            checkpointer=checkpointer,
        )

    def _texts(self) -> TextAnswers:
        """What answers questions about files and attached texts, out of their own sentences."""
        from agent.text_answers import TextAnswers

        return TextAnswers(self.model, lambda: self.embeddings)

    def _compaction(self) -> Compaction:
        """What keeps a long conversation in the window; a small model's summaries come from the chain."""
        from agent.compaction import Compaction
        from chains import summarize_chain
        from chains.rag import writes_well

        chain = summarize_chain(self.model)

        def summarize(text: str) -> str:
            return str(chain.invoke(text).text)

        well = writes_well(self.model)
        return Compaction(
            self.model, answer_tokens=self.settings.max_tokens, summarize=None if well else summarize
        )


def build_agent(
    settings: Settings, tools: Sequence[BaseTool] | None = None, *, checkpointer: Any = None
) -> Any:
    """A compiled LangGraph agent for `settings`, with `tools` added to the built-in ones.

    Invoke it with `{"messages": [...]}`; `agent.stream_events` reads its streams. A tool says what it may
    do in its metadata (`{"kind": "read"}`, `"run"` or `"write"`); without that it counts as `write`. Calls
    that act need approval: with a `checkpointer` the run stops in an interrupt, without one they are
    refused. Raises the errors of the rooms whose parts it builds.
    """
    return Parts(settings, tools).agent(checkpointer=checkpointer)
