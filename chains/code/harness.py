"""The program that checks code inside the sandbox.

It runs as `main.py` next to `solution.py`, so it imports the standard library only. Standard input is a line
with a random token, then the checks as JSON. For each check that ran to its end, one line with the token and
JSON goes to standard output, where the code's own output goes too, without the token. A check without such a
line did not run, so code that leaves early (`sys.exit`, `os._exit`) passes nothing.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import os
import sys
import traceback
from typing import Any

_DETAIL = 600


def main() -> None:
    """Import the solution and run the checks in order."""
    sys.dont_write_bytecode = True
    token = sys.stdin.readline().strip()
    checks = json.loads(sys.stdin.readline())
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")

    def report(**fields: Any) -> None:
        sys.stdout.flush()
        channel.write(f"\n{token} {json.dumps(fields)}\n")
        channel.flush()

    try:
        solution = importlib.import_module("solution")
    except BaseException as error:
        report(loaded=False, detail=_described(error))
        sys.stdout.flush()
        os._exit(1)
    report(loaded=True, detail="")
    scope = dict(vars(solution))
    for number, check in enumerate(checks):
        passed, detail = _run(check, scope)
        report(check=number, passed=passed, detail=detail[:_DETAIL])
    sys.stdout.flush()
    os._exit(0)  # skips threads and exit handlers of the code


def _run(check: dict[str, Any], scope: dict[str, Any]) -> tuple[bool, str]:
    try:
        if check["want"] is not None:
            return _doctest(check["source"], check["want"], scope)
        if check["made_up"]:
            return _called(check["source"], scope)
        return _expression(check["source"], scope)
    except BaseException as error:
        return False, _described(error)


def _expression(source: str, scope: dict[str, Any]) -> tuple[bool, str]:
    """Check that an expression is true; if it is `left == right`, report both values."""
    sides = _sides(source)
    if sides is None:
        value = eval(compile(source, "<check>", "eval"), scope)
        return bool(value), f"expected something true, found {value!r}"
    left, right = (eval(compile(side, "<check>", "eval"), scope) for side in sides)
    # A class that the solution defines could compare equal to anything.
    foreign = type(left).__module__ == "solution" and type(right).__module__ != "solution"
    same = bool(left == right) and not foreign
    return same, "" if same else f"expected {right!r}, found {left!r}"


def _sides(source: str) -> tuple[Any, Any] | None:
    import ast

    tree = ast.parse(source.strip(), mode="eval").body
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.ops[0], ast.Eq):
        return ast.Expression(tree.left), ast.Expression(tree.comparators[0])
    return None


def _doctest(source: str, want: str, scope: dict[str, Any]) -> tuple[bool, str]:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(source, "<doctest>", "single"), scope)
        got = out.getvalue()
    except Exception as error:
        got = f"Traceback (most recent call last):\n{type(error).__name__}: {error}\n"
        if want.startswith("Traceback"):  # doctest compares only the last line
            want = "Traceback (most recent call last):\n" + want.rstrip().rpartition("\n")[2] + "\n"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(want, got, flags)
    return same, "" if same else f"expected {want.strip()!r}, found {got.strip()!r}"


def _called(source: str, scope: dict[str, Any]) -> tuple[bool, str]:
    """Call with made-up arguments; an error that they may have caused is reported, but is not a failure."""
    try:
        eval(compile(source, "<check>", "eval"), scope)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return True, _described(error)
    return True, ""


def _described(error: BaseException) -> str:
    """Return the error with the last three lines of the solution that led to it."""
    frames = [
        one for one in traceback.extract_tb(error.__traceback__) if one.filename.endswith("solution.py")
    ]
    where = "".join(f"line {one.lineno}: {one.line}\n" for one in frames[-3:])
    return f"{where}{type(error).__name__}: {error}"[:_DETAIL]


if __name__ == "__main__":
    main()
