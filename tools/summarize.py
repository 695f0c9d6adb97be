"""summarize: the summarize chain as a tool.

Knows how a `Summary` is told to a model and kept whole as the artifact; opens no files, so a model cannot
have one read that its user did not hand over.
"""

from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool

from chains.errors import ChainError
from chains.summarize import Summary
from tools.errors import as_result, made_of, told_to_the_model

DESCRIPTION = (
    "Summarize a text that is given in full, of any length. Returns the summary. "
    "Use it when the user hands over a text and wants it shorter."
)


def summarize_tool(chain: Runnable[Any, Summary], *, name: str = "summarize") -> BaseTool:
    """Make a tool of `summarize_chain(llm)`; its artifact is the `Summary`.

    A text that cannot be summarized comes back as a message of status `error` that says why.

    Raises:
        ToolUnavailableError: `chain` is no Runnable.
    """
    made_of(chain, "invoke", "a chain made by summarize_chain(llm)")

    def summarize(text: str, config: RunnableConfig) -> tuple[str, Summary]:
        with told_to_the_model(ChainError):
            found = chain.invoke(text, config)
        return found.text, found

    async def asummarize(text: str, config: RunnableConfig) -> tuple[str, Summary]:
        with told_to_the_model(ChainError):
            found = await chain.ainvoke(text, config)
        return found.text, found

    return StructuredTool.from_function(
        summarize,
        asummarize,
        name=name,
        description=DESCRIPTION,
        response_format="content_and_artifact",
        handle_tool_error=as_result,
    )
