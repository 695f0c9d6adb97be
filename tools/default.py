"""All tools at once, made of one model and what else is at hand.

Knows which tool needs what; builds no model, no store and no sandbox of its own but those that the tools make
for themselves when none is given.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from chains.classify import classify_chain
from chains.code import code_chain
from chains.rag import rag_chain
from chains.summarize import summarize_chain
from sandbox import Sandbox
from tools.calculator import calculator_tool
from tools.classify import classify_tool
from tools.read_file import Folder, read_file_tool
from tools.run_python import run_python_tool
from tools.search_docs import search_docs_tool
from tools.summarize import summarize_tool
from tools.write_code import write_code_tool


def default_tools(
    llm: Runnable[LanguageModelInput, Any],
    *,
    retriever: BaseRetriever | None = None,
    embeddings: Embeddings | None = None,
    sandbox: Sandbox | None = None,
    folders: Folder | Sequence[Folder] = (),
) -> list[BaseTool]:
    """Return the tools that can be made of what is given, in the order of their names.

    Args:
        llm: Any LangChain model; the chains behind the tools use it.
        retriever: Brings `search_docs`; without it that tool is left out.
        embeddings: Makes `search_docs`, `summarize` and `classify` better.
        sandbox: Where code runs; None takes one with the default limits.
        folders: Files below these, or below this one, may be read; without any `read_file` is left out.
    """
    box = sandbox or Sandbox()
    found = [
        calculator_tool(),
        classify_tool(lambda labels: classify_chain(llm, labels, embeddings=embeddings)),
        run_python_tool(box),
        summarize_tool(summarize_chain(llm, embeddings=embeddings)),
        write_code_tool(code_chain(llm, box.run)),
    ]
    if folders:
        found.append(read_file_tool(folders))
    if retriever is not None:
        found.append(search_docs_tool(rag_chain(llm, retriever, embeddings=embeddings)))
    return sorted(found, key=lambda tool: tool.name)
