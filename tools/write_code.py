"""write_code: the code chain as a tool.

Knows how a `CodeResult` is told to a model (what was seen first, then the code) and kept whole as the
artifact.
"""

from __future__ import annotations

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from chains.code import CodeResult
from chains.code.chain import CodeInput
from chains.errors import ChainError
from sandbox import printable
from tools.errors import as_result, made_of, told_to_the_model

DESCRIPTION = (
    "Write Python code for a request, run it in a sandbox, and return it with what was seen: whether the "
    "given examples passed, or only that it ran. Give examples whenever the user states any."
)


class WriteCodeInput(BaseModel):
    """What the tool takes."""

    request: str = Field(description="what the code must do, in words")
    examples: list[str] = Field(
        default_factory=list, description="expressions that must be true, like 'f(2) == 4'; may be empty"
    )


def write_code_tool(chain: Runnable[CodeInput, CodeResult], *, name: str = "write_code") -> BaseTool:
    """Make a tool of `code_chain(llm, Sandbox().run)`; its artifact is the whole `CodeResult`.

    A request or an example that cannot be worked on comes back as a message of status `error` that says why.

    Raises:
        ToolUnavailableError: `chain` is no Runnable.
        SandboxUnavailable: (when called) no sandbox works on this machine; nothing is run.
    """
    made_of(chain, "invoke", "a chain made by code_chain(llm, Sandbox().run)")

    def write(
        request: str, config: RunnableConfig, examples: list[str] | None = None
    ) -> tuple[str, CodeResult]:
        with told_to_the_model(ChainError):
            result = chain.invoke({"request": request, "examples": examples or []}, config)
        return told(result), result

    async def awrite(
        request: str, config: RunnableConfig, examples: list[str] | None = None
    ) -> tuple[str, CodeResult]:
        with told_to_the_model(ChainError):
            result = await chain.ainvoke({"request": request, "examples": examples or []}, config)
        return told(result), result

    return StructuredTool.from_function(
        write,
        awrite,
        name=name,
        description=DESCRIPTION,
        args_schema=WriteCodeInput,
        response_format="content_and_artifact",
        handle_tool_error=as_result,
    )


def told(result: CodeResult) -> str:
    """Return a result as text for a model: the claim, then the code."""
    return f"{printable(result.explanation)}\n\n```python\n{result.code.rstrip()}\n```"
