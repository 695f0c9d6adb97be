r"""Corrections for the slips of a weak model, which writes nearly the right signature and code.

The chain applies `fix_signature` to the signature that the model proposes and `fix_code` to each reply.
Only what is certain is corrected: a missing import, a signature that the user's examples contradict, a
function under another name, and examples of use after it. Everything else is left to the run, whose error the
model sees.

    >>> print(with_missing_imports("def area(r):\n    return math.pi * r * r\n"))
    import math
    <BLANKLINE>
    def area(r):
        return math.pi * r * r
    <BLANKLINE>
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import typing
from collections.abc import Iterator, Sequence

from chains.code.request import CodeRequest, stated_properties
from chains.code.result import Check
from chains.code.source import function_in, is_demonstration, parses, under_stub


def fix_signature(line: str, request: CodeRequest) -> str:
    """Return the proposed line `def name(...):` as the request needs it.

    A request that states its numbers needs no parameters. The user's examples give the name of the function,
    and the number and types of its arguments.
    """
    if stated_properties(request, "f", needs_arguments=False):
        line = re.sub(r"\(.*?\)", "()", line, count=1)
    if request.name is not None:
        line = re.sub(r"def \w+\(", f"def {request.name}(", line, count=1)
        line = fit_signature(line, request.checks)
    return line


def fix_code(code: str, request: CodeRequest) -> str:
    """Return the code of a reply as the request needs it, or "" if it lacks the function.

    Args:
        code: Python that parses, or "".
        request: If it has a stub, the body of the function is put under it.
    """
    if not code or not request.wants_function:
        return with_missing_imports(code)
    if request.stub and request.name:
        return with_missing_imports(under_stub(code, request.stub, request.name))
    function = function_in(code, request.name) or function_in(code, None)
    if function is None:
        return ""
    if request.name and function.name != request.name:
        code = under_name(code, function.name, request.name)
    return with_missing_imports(without_demonstrations(code) if request.checks else code)


# The name and what follows the function.


def under_name(code: str, written: str, wanted: str) -> str:
    """Return `code` with the function `written` under the name `wanted`.

    The function is renamed. If the code already uses that name, it is assigned to the function instead.
    """
    bound = {one.arg for one in ast.walk(ast.parse(code)) if isinstance(one, ast.arg)}
    bound |= {
        one.id
        for one in ast.walk(ast.parse(code))
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    if wanted in bound:
        return f"{code}\n\n{wanted} = {written}\n"
    return re.sub(rf"\b{re.escape(written)}\b", wanted, code)


def without_demonstrations(code: str) -> str:
    """Return `code` without examples of its use, which may fail although the function is right."""
    tree = ast.parse(code).body
    lines = code.splitlines(keepends=True)
    for place in reversed(range(len(tree))):
        if is_demonstration(tree[place]):
            above = tree[place - 1].end_lineno or 0 if place else 0
            first = tree[place].lineno - 1
            while first > above and lines[first - 1].lstrip().startswith("#"):  # such as "# Example:"
                first -= 1
            del lines[first : tree[place].end_lineno]
    text = "".join(lines).strip("\n") + "\n"
    return text if parses(text) and ast.parse(text).body else code


# Imports.

_TYPING = frozenset(typing.__all__)


def with_missing_imports(code: str) -> str:
    """Return `code` with imports of the modules of the standard library that it uses and does not bind.

    A module counts as used if the code has `module.attribute`; names of `typing` are imported too.

    Args:
        code: Code that parses, or "".
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
    """Return every name that is bound anywhere in `tree`, whatever its scope."""
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
    """Return the number of lines that the docstring and the `from __future__` imports take."""
    place = 0
    for index, node in enumerate(tree.body):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and index == 0
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (text or future):
            break
        place = node.end_lineno or place
    return place


# Signatures.

_WIDE = frozenset(
    {"any", "callable", "float", "iterable", "mapping", "object", "optional", "sequence", "union"}
)


def fit_signature(line: str, checks: Sequence[Check]) -> str:
    """Return the line `def name(...):` with parameters and types that the calls in `checks` can use.

    Parameters that no call passes are removed, missing ones are added, and annotations that the examples
    contradict are replaced. Without this a small model keeps to what it proposed:

    >>> one_argument = Check(kind="example", source="count('a') == 2")
    >>> fit_signature("def count(text: str, sep: str) -> str:", [one_argument])
    'def count(text: str) -> int:'

    Args:
        line: The first line of a function, with its colon.
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
    """Return the annotation, or the one type of all literal `values` if it contradicts the annotation."""
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
    """Return what calls of `name` are compared with (4 in `f(2) == 4`), or True for a call by itself."""
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
    """Return the value of a literal, or None for any other expression."""
    try:
        value: object = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value
