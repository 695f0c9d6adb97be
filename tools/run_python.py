"""run_python: the sandbox as a tool.

Knows how a `RunResult` is told to a model and kept whole as the artifact. What a program prints is untrusted:
control characters are made visible, and the text is cut to what a model can read.
"""

from __future__ import annotations

import re

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from sandbox import RunResult, Sandbox, SandboxLimitError, printable
from tools.errors import as_result, made_of, told_to_the_model

DESCRIPTION = (
    "Run a Python program in a sandbox without network and without the user's files, and return what it "
    "prints. Print the result: only what is printed is seen."
)
_SHOWN = 4000
_FENCE = re.compile(r"\s*```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL | re.IGNORECASE)


class RunPythonInput(BaseModel):
    """What the tool takes."""

    code: str = Field(description="the whole Python program; it must print its result")
    stdin: str = Field(default="", description="text that the program reads from standard input")


def run_python_tool(sandbox: Sandbox | None = None, *, name: str = "run_python") -> BaseTool:
    """Make the tool; its artifact is the whole `RunResult`.

    A program in a Markdown fence, as models write them, runs without its fence; one that is larger than the
    sandbox's limits comes back as a message of status `error`.

    Args:
        sandbox: where to run; None takes one with the default limits.
        name: of the tool.

    Raises:
        ToolUnavailableError: `sandbox` is none.
        SandboxUnavailable: (when called) no sandbox works on this machine; nothing is run.
    """
    box = made_of(sandbox or Sandbox(), "run", "a Sandbox")

    def run(code: str, stdin: str = "") -> tuple[str, RunResult]:
        with told_to_the_model(SandboxLimitError):
            result = box.run(unfenced(code), stdin=stdin)
        return told(result), result

    async def arun(code: str, stdin: str = "") -> tuple[str, RunResult]:
        with told_to_the_model(SandboxLimitError):
            result = await box.arun(unfenced(code), stdin=stdin)
        return told(result), result

    return StructuredTool.from_function(
        run,
        arun,
        name=name,
        description=DESCRIPTION,
        args_schema=RunPythonInput,
        response_format="content_and_artifact",
        handle_tool_error=as_result,
        metadata={"kind": "run"},
    )


def unfenced(code: str) -> str:
    """Return the program inside a Markdown fence that holds all of `code`, else `code` as it is."""
    fenced = _FENCE.fullmatch(code)
    return fenced[1] if fenced else code


def told(result: RunResult) -> str:
    """Return a run as text for a model: how it ended, then what it printed."""
    parts = [] if result.ok else [_ended(result)]
    parts += [f"{_cut(result.stdout)}"] if result.stdout.strip() else []
    if result.stderr.strip() and not result.ok:
        parts.append(f"stderr:\n{_cut(result.stderr, keep_end=True)}")
    if result.files:
        parts.append(
            "files: " + ", ".join(f"{printable(name)} ({len(data)} bytes)" for name, data in _first(result))
        )
    return "\n".join(parts) or "The program ended without printing anything: print a result to see it."


def _first(result: RunResult) -> list[tuple[str, bytes]]:
    return list(result.files.items())[:20]


def _ended(result: RunResult) -> str:
    why = f" ({result.killed_by})" if result.killed_by not in (None, result.status) else ""
    code = f", exit code {result.exit_code}" if result.exit_code is not None else ""
    return f"status: {result.status}{why}{code}"


def _cut(text: str, *, keep_end: bool = False) -> str:
    shown = printable(text).rstrip()
    if len(shown) <= _SHOWN:
        return shown
    left_out = len(shown) - _SHOWN
    if keep_end:
        return f"[{left_out} characters left out]\n{shown[-_SHOWN:]}"
    return f"{shown[:_SHOWN]}\n[{left_out} characters left out]"
