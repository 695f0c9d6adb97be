"""The imports a small model forgets: modules of the standard library that the code uses and nothing binds.

Knows Python's syntax and the names of the standard library. Adds only what is certain: a name that is used as
`module.attribute` and bound nowhere in the code, or one of typing's own names. Everything else is left to the
run, whose error the model gets to see.
"""

from __future__ import annotations

import ast
import builtins
import sys
import typing

_TYPING = frozenset(typing.__all__)


def with_missing_imports(code: str) -> str:
    """Return Python code with the standard library's modules imported that it uses and does not bind.

    Args:
        code: Code that parses; "" stays "".
    """
    if not code:
        return code
    tree = ast.parse(code)
    free = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _bound(tree)
    bases = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    modules = sorted(free & bases & sys.stdlib_module_names)
    hints = sorted((free - bases) & _TYPING - set(dir(builtins)))
    lines = [f"import {name}" for name in modules]
    if hints:
        lines.append(f"from typing import {', '.join(hints)}")
    if not lines:
        return code
    place = _after_header(tree)
    kept = code.splitlines()
    return "\n".join([*kept[:place], *lines, *([] if place else [""]), *kept[place:]]) + "\n"


def _bound(tree: ast.Module) -> set[str]:
    """Return every name that is bound anywhere, by whatever means; scopes are not told apart."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
    return found


def _after_header(tree: ast.Module) -> int:
    """Return how many lines the docstring and the `from __future__` imports take."""
    place = 0
    for index, node in enumerate(tree.body):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and index == 0
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (text or future):
            break
        place = node.end_lineno or place
    return place
