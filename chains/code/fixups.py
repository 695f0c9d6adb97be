"""The imports a small model forgets: modules of the standard library that the code uses and nothing binds.

Knows Python's syntax and the names of the standard library. Adds only what is certain: a name that is used as
`module.attribute` and bound nowhere in the code, or one of typing's own names. Everything else is left to the
run, whose error the model gets to see.

A proposed signature, fitted to the examples that the code must pass.

Knows Python's syntax and what calls in examples tell: how many arguments there are, and of which types they
and the result are. A small model proposes `count(text: str, sep: str) -> str` for `count("a b") == 2`, and
then keeps to it.
"""

from __future__ import annotations

import ast
import builtins
import sys
import typing
from collections.abc import Iterator, Sequence

from chains.code.result import Check
from chains.code.source import function_in

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


_WIDE = frozenset(
    {"any", "callable", "float", "iterable", "mapping", "object", "optional", "sequence", "union"}
)


def fit_signature(line: str, checks: Sequence[Check]) -> str:
    """Return the line `def name(...):` such that the examples' calls of that name can be made.

    Parameters beyond those that every call gives are taken off, missing ones are added, and annotations that
    the examples contradict are replaced or taken off. What no example tells is kept.

    Args:
        line: The first line of a function, its colon included.
        checks: The user's own checks.
    """
    function = function_in(f"{line}\n    pass", None)
    calls = list(_calls(checks, function.name)) if function is not None else []
    plain = [one for one in calls if not one.keywords and not any(map(_is_starred, one.args))]
    if function is None or not plain or len(plain) < len(calls):
        return line
    given = function.args
    if given.vararg or given.kwarg or given.kwonlyargs or given.posonlyargs:
        return line
    before = ast.dump(function)
    _fit_parameters(given, plain)
    function.returns = _fitted(function.returns, _results(checks, function.name))
    return line if ast.dump(function) == before else ast.unparse(function).partition("\n")[0]


def _fit_parameters(given: ast.arguments, calls: Sequence[ast.Call]) -> None:
    least, most = (bound(len(one.args) for one in calls) for bound in (min, max))
    named = len(given.args)
    if not named - len(given.defaults) <= least <= most <= named:
        fresh = [ast.arg(f"value{n}") for n in range(named + 1, most + 1)]
        given.args = [*given.args, *fresh][:most]
        given.defaults = [ast.Constant(None)] * (most - least)
    for place, one in enumerate(given.args):
        one.annotation = _fitted(
            one.annotation, [call.args[place] for call in calls if place < len(call.args)]
        )


def _fitted(annotation: ast.expr | None, values: Sequence[ast.expr]) -> ast.expr | None:
    """The annotation, or the type of the literals where all are of one type and it names another."""
    types = {type(one) for one in map(_value, values) if one is not None}
    if annotation is None or len(types) != 1:
        return annotation
    kind = types.pop().__name__
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    if not isinstance(base, ast.Name) or base.id.lower() in (_WIDE | {kind}):
        return annotation
    return ast.Name(kind)


def _calls(checks: Sequence[Check], name: str) -> Iterator[ast.Call]:
    for check in checks:
        for node in ast.walk(ast.parse(check.source.strip())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield node


def _results(checks: Sequence[Check], name: str) -> list[ast.expr]:
    """What calls are compared with, `f(2) == 4`; a call by itself, or after `not`, tells of a truth value."""
    found: list[ast.expr] = []
    for check in checks:
        node = ast.parse(check.source.strip()).body[0]
        claim = node.value if isinstance(node, ast.Expr) else None
        if isinstance(claim, ast.UnaryOp) and isinstance(claim.op, ast.Not):
            claim = claim.operand
        if _is_call(claim, name):
            found.append(ast.Constant(True))
        elif (
            isinstance(claim, ast.Compare) and isinstance(claim.ops[0], ast.Eq) and _is_call(claim.left, name)
        ):
            found += claim.comparators[:1]
    return found


def _is_call(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _is_starred(node: ast.expr) -> bool:
    return isinstance(node, ast.Starred)


def _value(node: ast.expr) -> object:
    """The value of a literal, None where it is none."""
    try:
        value: object = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value
