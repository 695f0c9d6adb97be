"""The built-in tools, made of the parts of this machine, and how they stand beside other people's tools.

Knows the tools' names and what each is made of. A tool whose part is missing here (no sandbox) is left out,
not faked. Refuses to know when a tool is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError
from agent.taint import CLOSED, TRUSTED_RESULTS

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from agent.build import Parts


def built_in_tools(parts: Parts) -> list[BaseTool]:
    """The tools that this machine has all parts for."""
    from agent.notes import remember_tool
    from chains import classify_chain, summarize_chain
    from tools import calculator_tool, classify_tool, read_file_tool, search_docs_tool, summarize_tool

    def classifier(labels: Sequence[str]) -> Any:
        return classify_chain(parts.model, labels, embeddings=parts.embeddings)

    found: list[BaseTool] = [
        calculator_tool(),
        classify_tool(classifier),
        summarize_tool(summarize_chain(parts.model)),
        remember_tool(parts.settings.folders.notes),
    ]
    if parts.settings.files:
        found.append(read_file_tool([path.expanduser() for path in parts.settings.files]))
    if parts.has_documents():
        found.append(search_docs_tool(parts.answerer))
    return [*found, *_code_tools(parts)]


def _code_tools(parts: Parts) -> list[BaseTool]:
    from chains import code_chain
    from sandbox import Sandbox
    from tools import run_python_tool, write_code_tool

    if Sandbox.tier().number == 0:
        return []
    return [run_python_tool(parts.sandbox), write_code_tool(code_chain(parts.model, parts.sandbox.run))]


def first_tier_holds() -> bool:
    """Whether the sandbox's first tier works on this machine."""
    from sandbox import Sandbox

    return Sandbox.tier().number == 1


def join_tools(
    built_in: Sequence[BaseTool], remote: Sequence[BaseTool], added: Sequence[BaseTool]
) -> list[BaseTool]:
    """All tools together.

    Raises:
        ConfigError: A name is taken already, or is that of a built-in tool whose results are trusted
            (`agent.taint`): also where that tool is missing, for trust goes by the name.
    """
    taken: dict[str, BaseTool] = {tool.name: tool for tool in built_in}
    for tool in (*added, *remote):
        if tool.name in (TRUSTED_RESULTS | CLOSED) - taken.keys():
            raise ConfigError(
                f"expected a name that no built-in tool has, found a tool called {tool.name!r}; rename it"
            )
        if tool.name in taken:
            raise ConfigError(
                f"expected tools with names of their own, found two called {tool.name!r}; rename one of them"
            )
        taken[tool.name] = tool
    return list(taken.values())
