"""LangChain's own tests of tools, inherited for those that need neither documents nor embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import ScriptedChat
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from chains.code import code_chain
from sandbox import Sandbox
from tools.calculator import calculator_tool
from tools.chain_tools import write_code_tool
from tools.read_file import read_file_tool
from tools.run_python import run_python_tool


class _Calculator:
    @property
    def tool_constructor(self) -> BaseTool:
        return calculator_tool()

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"expression": "(3 + 4) * 2.5"}


class TestCalculatorUnit(_Calculator, ToolsUnitTests): ...


class TestCalculatorIntegration(_Calculator, ToolsIntegrationTests): ...


class _RunPython:
    @property
    def tool_constructor(self) -> BaseTool:
        return run_python_tool()

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"code": "print(6 * 7)"}


class TestRunPythonUnit(_RunPython, ToolsUnitTests): ...


class TestRunPythonIntegration(_RunPython, ToolsIntegrationTests): ...


class _WriteCode:
    @property
    def tool_constructor(self) -> BaseTool:
        model = ScriptedChat(replies=["def f(x):", "```python\ndef f(x):\n    return 2 * x\n```"])
        return write_code_tool(code_chain(model, Sandbox().run))

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"request": "a function that doubles", "examples": ["f(2) == 4"]}


class TestWriteCodeUnit(_WriteCode, ToolsUnitTests): ...


class TestWriteCodeIntegration(_WriteCode, ToolsIntegrationTests): ...


class _ReadFile:
    @property
    def tool_constructor(self) -> BaseTool:
        return read_file_tool([Path(__file__).parent])

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"path": Path(__file__).name}


class TestReadFileUnit(_ReadFile, ToolsUnitTests): ...


class TestReadFileIntegration(_ReadFile, ToolsIntegrationTests): ...
