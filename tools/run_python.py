"""run_python: the sandbox as a tool.

What a program prints is untrusted: control characters are made visible, and the text is cut to a length that
a model can read. The artifact keeps the whole result.
"""

from __future__ import annotations

import re

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from sandbox import RunResult, Sandbox, SandboxLimitError, printable
from tools.errors import error_text, reported_to_model, require_part

DESCRIPTION = (
    "Run a Python program in a sandbox without network and without the user's files, and return what it "
    "prints. Print the result: only what is printed is seen."
)
MAX_SHOWN = 4000
"""Characters of each output stream that the model sees."""
_MAX_FILES_SHOWN = 20
_FENCE = re.compile(r"\s*```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL | re.IGNORECASE)


class RunPythonInput(BaseModel):
    """Arguments of run_python."""

    code: str = Field(description="the whole Python program; it must print its result")
    stdin: str = Field(default="", description="text that the program reads from standard input")


def run_python_tool(sandbox: Sandbox | None = None, *, name: str = "run_python") -> BaseTool:
    """Return a tool that runs a Python program; its artifact is the whole `RunResult`.

    >>> run_python_tool().invoke({"code": "print(6 * 7)"})
    '42'

    Models often put the program in a Markdown fence; it runs without the fence. A program that is larger than
    the sandbox's limits is reported to the model as an error.

    Args:
        sandbox: Where to run. If None, a sandbox with the default limits.
        name: Name of the tool.

    Raises:
        ToolUnavailableError: `sandbox` is not a Sandbox.
        SandboxUnavailable: (when called) no sandbox works on this machine; nothing is run.
    """
    box = require_part(sandbox or Sandbox(), "run", "a Sandbox")

    def run(code: str, stdin: str = "") -> tuple[str, RunResult]:
        with reported_to_model(SandboxLimitError):
            result = box.run(unfenced(code), stdin=stdin)
        return run_text(result), result

    async def arun(code: str, stdin: str = "") -> tuple[str, RunResult]:
        with reported_to_model(SandboxLimitError):
            result = await box.arun(unfenced(code), stdin=stdin)
        return run_text(result), result

    return StructuredTool.from_function(
        run,
        arun,
        name=name,
        description=DESCRIPTION,
        args_schema=RunPythonInput,
        response_format="content_and_artifact",
        handle_tool_error=error_text,
        metadata={"kind": "run", "reaches": sandbox_reach(), "result": "own"},
    )


def sandbox_reach() -> str:
    """Return how far a program in the sandbox can carry data, for a tool's metadata.

    It is "nothing" if the first tier holds on this machine: no network, and none of the user's files.
    """
    return "nothing" if Sandbox.tier().number == 1 else "machine"


def unfenced(code: str) -> str:
    """Return the program inside a Markdown fence that encloses all of `code`, or `code` if there is none."""
    fenced = _FENCE.fullmatch(code)
    return fenced[1] if fenced else code


def run_text(result: RunResult) -> str:
    """Return how the run ended (unless it succeeded), then what it printed and the files it left."""
    parts = [] if result.ok else [_ending(result)]
    if result.stdout.strip():
        parts.append(_cut(result.stdout))
    if result.stderr.strip() and not result.ok:
        parts.append(f"stderr:\n{_cut(result.stderr, keep_end=True)}")
    if result.files:
        shown = list(result.files.items())[:_MAX_FILES_SHOWN]
        parts.append(
            "files: " + ", ".join(f"{printable(name)} ({len(content)} bytes)" for name, content in shown)
        )
    return "\n".join(parts) or "The program ended without printing anything: print a result to see it."


def _ending(result: RunResult) -> str:
    why = f" ({result.killed_by})" if result.killed_by not in (None, result.status) else ""
    code = f", exit code {result.exit_code}" if result.exit_code is not None else ""
    return f"status: {result.status}{why}{code}"


def _cut(text: str, *, keep_end: bool = False) -> str:
    shown = printable(text).rstrip()
    if len(shown) <= MAX_SHOWN:
        return shown
    left_out = len(shown) - MAX_SHOWN
    if keep_end:
        return f"[{left_out} characters left out]\n{shown[-MAX_SHOWN:]}"
    return f"{shown[:MAX_SHOWN]}\n[{left_out} characters left out]"
