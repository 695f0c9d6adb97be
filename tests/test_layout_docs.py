"""The Python in the documentation imports names that exist and passes arguments that are accepted."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _code(page: Path) -> ast.Module:
    return ast.parse("\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)))


def _imported(tree: ast.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                found[one.asname or one.name] = getattr(importlib.import_module(node.module), one.name)
        elif isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name] = importlib.import_module(one.name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documentation_names_what_exists(page: Path) -> None:
    tree = _code(page)
    known = _imported(tree)  # raises if a name does not exist
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Name) or call.func.id not in known:
            continue
        signature = inspect.signature(known[call.func.id])
        signature.bind_partial(
            *[None] * len(call.args), **{one.arg: None for one in call.keywords if one.arg}
        )


def test_the_roots_of_the_error_trees_are_as_documented() -> None:
    rooms = ("llms", "chains", "chains.retrieval", "sandbox", "tools", "agent")
    text = (ROOT / "docs" / "PYTHON.md").read_text("utf-8").partition("## Errors")[2]
    documented = set(re.findall(r"`(\w+Error)`", text))
    modules = [importlib.import_module(f"{room}.errors") for room in rooms]
    roots = {
        name
        for module in modules
        for name, one in vars(module).items()
        if Exception in getattr(one, "__bases__", ()) and one.__module__ == module.__name__
    }
    assert documented == roots
