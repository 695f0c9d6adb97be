"""run_python and write_code as tools: the text for the model and the artifact for the application."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import ScriptedChat

from chains.code import code_chain
from sandbox import Limits, RunResult, Sandbox
from tools.chain_tools import write_code_tool
from tools.run_python import run_python_tool, run_text


def _call(tool: Any, **arguments: Any) -> Any:
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


def test_run_python_tells_the_output_and_keeps_the_result() -> None:
    message = _call(run_python_tool(), code="import sys\nprint(6 * 7, sys.stdin.read())", stdin="in")
    assert message.content == "42 in"
    assert isinstance(message.artifact, RunResult) and message.artifact.ok


def test_run_python_tells_how_a_program_failed() -> None:
    content = _call(run_python_tool(), code="print('so far')\nraise ValueError('boo')").content
    assert content.startswith("status: error, exit code 1\nso far") and "ValueError: boo" in content


def test_run_python_tells_of_a_limit() -> None:
    tool = run_python_tool(Sandbox(Limits(wall_s=1)))
    assert _call(tool, code="import time\ntime.sleep(9)").content.startswith("status: timeout (wall)")


@pytest.mark.parametrize("fence", ["```python\n{}\n```", "```\n{}```", "  ```py\n{}\n```\n"])
async def test_run_python_takes_a_program_out_of_its_fence(fence: str) -> None:
    code = "print('```')\nprint(2)"
    assert await run_python_tool().ainvoke({"code": fence.format(code)}) == "```\n2"
    assert "print a result" in _call(run_python_tool(), code="2 + 2").content


def test_run_python_tells_what_the_sandbox_refuses_or_cannot_read() -> None:
    message = _call(run_python_tool(Sandbox(Limits(disk_bytes=70_000))), code="#" * 80_000)
    assert message.status == "error" and "raise Limits.disk_bytes" in message.content
    assert "status: error" in _call(run_python_tool(), code="print('\ud83d')").content
    flood = _call(run_python_tool(Sandbox(Limits(output_bytes=1000))), code="print('x' * 9999)")
    assert flood.content.startswith("status: output\nxxx")


async def test_run_python_runs_in_an_event_loop() -> None:
    assert await run_python_tool().ainvoke({"code": "print(1)"}) == "1"


def test_long_output_and_escapes_are_made_fit_to_read() -> None:
    result = RunResult(status="ok", exit_code=0, stdout="\x1b[2J" + "x" * 9000, stderr="")
    text = run_text(result)
    assert text.startswith("\\x1b[2Jx") and text.endswith("characters left out]") and len(text) < 4100


def test_write_code_tells_the_claim_before_the_code() -> None:
    replies = ["def f(x):", "```python\ndef f(x):\n    return 2 * x\n```"]
    tool = write_code_tool(code_chain(ScriptedChat(replies=[*replies]), Sandbox().run))
    message = _call(tool, request="double", examples=["f(2) == 4"])
    assert message.content.startswith("It was run, and your example passed.\n\n```python\ndef f")
    assert message.artifact.verified


async def test_write_code_tells_what_it_cannot_work_on() -> None:
    tool = write_code_tool(code_chain(ScriptedChat(replies=["def f(x):"]), Sandbox().run))
    for arguments in ({"request": " "}, {"request": "double", "examples": ["f(2) -> "]}):
        message = _call(tool, **arguments)
        assert message.status == "error" and message.artifact is None, message
        assert (await tool.ainvoke(arguments)).startswith("error: ")
