"""The composition root: the one place where models, stores, chains, tools and the graph are built and wired.

Each part is built on first use and kept, so that a command pays only for what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError
from agent.settings import Settings

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool
    from langgraph.graph.state import CompiledStateGraph

    from agent.mcp.client import McpServers
    from agent.planner.planner import Planner
    from agent.planner.router import Router
    from agent.trace import GenAISpans
    from agent.turn.compaction import Compaction
    from chains.retrieval import DocumentStore
    from llms import ChatLocal, LocalLLM
    from sandbox import Sandbox


# The order in which a model reads the built-in tools.
_ORDER = "calculator classify summarize remember read_file search_docs run_python write_code".split()


def built_in_tools(parts: Parts) -> list[BaseTool]:
    """Return the tools that this machine has all parts for."""
    from agent.storage.remember import remember_tool
    from chains import classify_chain, summarize_chain
    from tools import default_tools

    found = default_tools(
        parts.model,
        answerer=parts.answerer if parts.has_documents() else None,
        summarizer=summarize_chain(parts.model),
        # The embedder is loaded by the first call, and not when the tools are made.
        classifier=lambda labels: classify_chain(parts.model, labels, embeddings=parts.embeddings),
        sandbox=parts.sandbox,
        folders=[path.expanduser() for path in parts.settings.files],
    )
    remember = remember_tool(parts.settings.folders.notes)
    return sorted([*found, remember], key=lambda tool: _ORDER.index(tool.name))


def join_tools(
    built_in: Sequence[BaseTool], remote: Sequence[BaseTool], added: Sequence[BaseTool | Callable[..., Any]]
) -> list[BaseTool]:
    """Return all tools together; a remote tool whose name is taken gets a number at its end.

    Raises:
        ConfigError: Two tools of this program have the same name.
    """
    from agent.turn.graph import as_tool

    taken: dict[str, BaseTool] = {tool.name: tool for tool in built_in}
    for tool in map(as_tool, added):
        if tool.name in taken:
            raise ConfigError(
                f"expected tools with names of their own, found two called {tool.name!r}; rename one of them"
            )
        taken[tool.name] = tool
    for tool in remote:
        name = next(name for name in _numbered(tool.name) if name not in taken)
        taken[name] = tool if name == tool.name else tool.model_copy(update={"name": name})
    return list(taken.values())


def _numbered(name: str) -> Iterator[str]:
    """Yield the name, then the name with a number, within the 64 characters that models allow."""
    yield name
    yield from (f"{name[:60]}_{number}" for number in range(2, 1000))


class Parts:
    """Everything that one set of settings leads to. Use it as a context manager, which closes the store.

    ```python
    with Parts(load_settings(files=["~/notes"])) as parts:
        parts.store.ingest("~/notes")
        print(parts.answerer.invoke("When does the lease end?").text)
    ```

    Args:
        settings: What to build.
        tools: Added to the built-in tools.
        model: Any LangChain chat model, used instead of the one that the settings name.
        retriever: Any LangChain retriever, asked instead of the document store.
        search_filter: Narrows which documents are asked, by their metadata.
        notify: Receives the notices of the model, which otherwise go to stderr.
    """

    def __init__(
        self,
        settings: Settings,
        tools: Sequence[BaseTool | Callable[..., Any]] | None = None,
        *,
        model: BaseChatModel | None = None,
        retriever: BaseRetriever | None = None,
        search_filter: dict[str, Any] | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self._model, self._retriever = model, retriever
        self._notify = notify
        self._added = list(tools or ())
        self._filter = search_filter or None

    def close(self) -> None:
        """Close the store and the connections to MCP servers."""
        if "store" in self.__dict__:
            self.store.close()
        if "mcp" in self.__dict__:
            self.mcp.close()

    def changed(self, values: dict[str, Any]) -> Parts:
        """Return parts with the same tools and filter, and other values for some settings."""
        fresh = object.__new__(type(self))  # Of the same class, without what was built already.
        fresh.settings = type(self.settings).model_construct(**{**self.settings.model_dump(), **values})
        fresh._added, fresh._filter, fresh._notify = self._added, self._filter, self._notify
        fresh._model, fresh._retriever = self._model, self._retriever
        return fresh

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def model(self) -> BaseChatModel:
        """The chat model; the weights of a local one load on its first use."""
        return self._model or self.local_model

    @cached_property
    def local_model(self) -> ChatLocal:
        """The chat model that the settings name."""
        from llms import ChatLocal

        return ChatLocal(**self._model_fields(), tool_picker=RouterPicker(self))

    @cached_property
    def completion_model(self) -> LocalLLM:
        """The same weights as a model of raw text."""
        from llms import LocalLLM

        return LocalLLM(**self._model_fields())

    def _model_fields(self) -> dict[str, Any]:
        """Return the settings that are fields of the model, too; names and meanings are the same there."""
        from llms import ChatLocal
        from llms.models.registry import Registry

        s = self.settings
        registry = Registry(s.folders.cache, s.folders.config)
        shared = ChatLocal.model_fields.keys() & Settings.model_fields.keys()
        return {name: getattr(s, name) for name in shared} | {
            "model": registry.resolve(registry.default if s.model == "auto" else s.model),
            "adapter": str(s.adapter) if s.adapter else None,
            "cache_dir": s.folders.cache,
            **({"notify": self._notify} if self._notify is not None else {}),
        }

    @cached_property
    def store(self) -> DocumentStore:
        """The document store at the settings' folder."""
        from chains.retrieval import DocumentStore

        s = self.settings
        return DocumentStore(
            s.store,
            embeddings=s.embeddings,
            chroma=s.chroma,
            precision=s.embedding_precision,
            multilingual=self._multilingual_file,
        )

    def _multilingual_file(self) -> Path:
        """Return the file of the embedder for other languages than English, fetched if it is missing."""
        from chains.retrieval.embedder import multilingual_file
        from chains.retrieval.errors import EmbedderUnavailable
        from llms.errors import LLMError
        from llms.models.catalog import MULTILINGUAL_EMBEDDER
        from llms.models.fetch import fetch

        with suppress(EmbedderUnavailable):
            return multilingual_file()
        notify: dict[str, Any] = {} if self._notify is None else {"notify": self._notify}
        try:
            return fetch(MULTILINGUAL_EMBEDDER, self.settings.folders.cache, **notify)
        except LLMError as error:
            raise EmbedderUnavailable(str(error)) from error

    @cached_property
    def embeddings(self) -> Embeddings:
        """The embedder: the store's own if there is a store, else the one that ships."""
        if self.settings.store.exists():
            return self.store.embeddings
        from chains.retrieval import default_embeddings

        return default_embeddings()

    def has_documents(self) -> bool:
        """Return whether there is a document to ask; makes no folder and loads no embedder."""
        if self._retriever is not None:
            return True
        return self.settings.store.exists() and not self.store.empty

    @cached_property
    def retriever(self) -> BaseRetriever:
        """Finds passages in the store."""
        if self._retriever is not None:
            return self._retriever
        return self.store.retriever(k=self.settings.k, filter=self._filter)

    @cached_property
    def answerer(self) -> Runnable[Any, Any]:
        """The chain that answers from the documents."""
        from chains import rag_chain

        return rag_chain(self.model, self.retriever, embeddings=self.embeddings)

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where generated code runs."""
        from sandbox import Sandbox

        return Sandbox()

    @cached_property
    def tools(self) -> list[BaseTool]:
        """The built-in tools, those of the MCP servers, and those the caller added; names are unique."""
        return join_tools(self.own_tools, self.mcp.tools() if self.settings.mcp else [], self._added)

    @cached_property
    def own_tools(self) -> list[BaseTool]:
        """The built-in tools."""
        return built_in_tools(self)

    @cached_property
    def mcp(self) -> McpServers:
        """The connections to the MCP servers of the settings."""
        from agent.mcp.client import McpServers

        return McpServers(self.settings.mcp)

    @cached_property
    def router(self) -> Router:
        """The router of messages; tools that are not built in are routed by their descriptions."""
        from agent.planner.router import Router

        built_in = {id(tool) for tool in self.own_tools}
        own = {tool.name: tool.description for tool in self.tools if id(tool) not in built_in}
        return Router(self.embeddings, cache=self.settings.folders.cache, tools=own)

    @cached_property
    def spans(self) -> GenAISpans:
        """The OpenTelemetry exporter; raises ConfigError without the extra."""
        from agent.trace import exporting_spans

        return exporting_spans()

    def agent(self, *, documents: bool = True, tools: bool = True, checkpointer: Any = None) -> Any:
        """Return the compiled graph; with `documents`, the store is asked first if it holds any."""
        from agent.guard.labels import CLEAN, both
        from agent.storage.notes import from_others, read_notes, system_with_notes
        from agent.turn.bounds import TurnLimits
        from agent.turn.graph import build_graph

        s = self.settings
        offered = self.tools if tools else []
        notes = read_notes(s.folders.notes)
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
            planner=self.planner if offered else None,
            approve=s.approve,
            standing=both("an earlier note") if from_others(notes) else CLEAN,
            limits=limits,
            max_tool_calls=s.max_tool_calls,
            system=system_with_notes(s.system, notes),
            compaction=self._compaction() if checkpointer is not None else None,
            checkpointer=checkpointer,
        )

    @cached_property
    def planner(self) -> Planner:
        """The planner, which calls the tools if the setting says so or the model says that it is small."""
        from agent.planner.planner import Planner
        from agent.planner.text_answers import TextAnswers
        from llms.protocols import writes_well

        setting = self.settings.planner
        calls_tools = setting == "routed" or (setting == "auto" and not writes_well(self.model))
        texts = TextAnswers(self.model, lambda: self.embeddings) if calls_tools else None
        return Planner(self.router, calls_tools=calls_tools, texts=texts, folders=self.settings.files)

    def _compaction(self) -> Compaction:
        """Return what keeps a long conversation in the window; the chain summarizes for a small model."""
        from agent.turn.compaction import Compaction
        from chains import summarize_chain
        from llms.protocols import writes_well

        chain = summarize_chain(self.model)

        def summarize(text: str) -> str:
            return str(chain.invoke(text).text)

        well = writes_well(self.model)
        return Compaction(
            self.model, answer_tokens=self.settings.max_tokens, summarize=None if well else summarize
        )


class RouterPicker:
    """Picks tools with the router of `parts`, which is built when the first message comes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def pick(self, message: str, tools: Mapping[str, str], *, must: bool = False) -> str | None:
        """Return which of `tools` the message asks for; see `llms.protocols.ToolPicker`."""
        return self._parts.router.pick(message, tools, must=must)


def build_agent(
    settings: Settings | None = None,
    tools: Sequence[BaseTool | Callable[..., Any]] | None = None,
    *,
    model: BaseChatModel | None = None,
    retriever: BaseRetriever | None = None,
    checkpointer: Any = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return a compiled LangGraph agent with the built-in tools and `tools`.

    ```python
    agent = build_agent(load_settings(), [my_tool])
    agent.invoke({"messages": [("user", "What is 15 % of 300?")]})["messages"][-1].text
    ```

    `stream_events` yields what happens in a turn. A tool says in its metadata what it does (`kind`: "read",
    "run" or "write") and how far a call can carry data (`reaches`: "nothing", "machine" or "outside"). If it
    says neither, it counts as one that writes and reaches outside. Calls that act need approval: with a
    `checkpointer` the run stops in an interrupt, without one they are refused. A tool whose result is the
    answer has `"answers": True` in its metadata, which ends the turn of a small model.

    Args:
        settings: What to build; by default, what `load_settings()` reads.
        tools: LangChain tools, or plain functions with docstrings, in addition to the built-in ones.
        model: Any LangChain chat model, used instead of the one that the settings name.
        retriever: Any LangChain retriever, asked instead of the document store.
        checkpointer: LangGraph's; keeps threads and waiting approvals.

    Raises:
        ConfigError: Two tools have the same name.
        LLMError: The model cannot be found or loaded; other parts raise the errors of their own rooms.
    """
    from agent.settings import load_settings

    parts = Parts(settings or load_settings(), tools, model=model, retriever=retriever)
    found: CompiledStateGraph[Any, Any, Any, Any] = parts.agent(checkpointer=checkpointer)
    return found
