"""All tools that can be made of one model and the other parts at hand."""

from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from chains.classify import classify_chain
from chains.code import code_chain
from chains.rag import Answer, rag_chain
from chains.summarize import Summary, summarize_chain
from sandbox import Sandbox
from tools.calculator import calculator_tool
from tools.chain_tools import (
    ClassifierFactory,
    classify_tool,
    search_docs_tool,
    summarize_tool,
    write_code_tool,
)
from tools.read_file import Folder, read_file_tool
from tools.run_python import run_python_tool


def default_tools(
    llm: Runnable[LanguageModelInput, Any],
    *,
    retriever: BaseRetriever | None = None,
    embeddings: Embeddings | None = None,
    sandbox: Sandbox | None = None,
    folders: Folder | Sequence[Folder] = (),
    answerer: Runnable[Any, Answer] | None = None,
    summarizer: Runnable[Any, Summary] | None = None,
    classifier: ClassifierFactory | None = None,
) -> list[BaseTool]:
    """Return the tools that can be made of the given parts, ordered by name.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> [tool.name for tool in default_tools(FakeListChatModel(responses=[]), folders="~/notes")]
    ['calculator', 'classify', 'read_file', 'run_python', 'summarize', 'write_code']

    A tool that lacks its part is left out: `search_docs` without documents, `read_file` without folders,
    `run_python` and `write_code` on a machine where no sandbox works.

    Args:
        llm: The model that the chains behind the tools use. Any LangChain model will do.
        retriever: Finds passages for `search_docs`.
        embeddings: Improves `search_docs`, `summarize` and `classify`.
        sandbox: Where code runs. If None, a sandbox with the default limits.
        folders: Folders whose files may be read.
        answerer: A `rag_chain` that exists already, used for `search_docs` instead of `retriever`.
        summarizer: A `summarize_chain` that exists already.
        classifier: Returns the `classify_chain` for given labels.
    """
    box = sandbox or Sandbox()
    if answerer is None and retriever is not None:
        answerer = rag_chain(llm, retriever, embeddings=embeddings)
    tools = [
        calculator_tool(),
        classify_tool(classifier or (lambda labels: classify_chain(llm, labels, embeddings=embeddings))),
        summarize_tool(summarizer or summarize_chain(llm, embeddings=embeddings)),
    ]
    if folders:
        tools.append(read_file_tool(folders))
    if answerer is not None:
        tools.append(search_docs_tool(answerer))
    if Sandbox.tier():
        tools += [run_python_tool(box), write_code_tool(code_chain(llm, box.run))]
    return sorted(tools, key=lambda tool: tool.name)
