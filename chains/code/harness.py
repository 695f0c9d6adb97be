"""The program that checks code inside the sandbox. Self-contained: it runs as `main.py` beside `solution.py`.

Standard input: a line with a random token, then the checks as JSON. For each check that was run to its end it
writes one line, the token and then JSON, to standard output; the code's own output goes there too, without
the token. A check without such a line was not run: leaving early (`sys.exit`, `os._exit`) passes nothing.
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
        report(loaded=False, detail=_told(error))
        sys.stdout.flush()
        os._exit(1)
    report(loaded=True, detail="")
    scope = dict(vars(solution))
    for number, check in enumerate(checks):
        passed, detail = _run(check, scope)
        report(check=number, passed=passed, detail=detail[:_DETAIL])
    sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the code have no say


def _run(check: dict[str, Any], scope: dict[str, Any]) -> tuple[bool, str]:
    try:
        if check["want"] is not None:
            return _doctest(check["source"], check["want"], scope)
        if check["made_up"]:
            return _called(check["source"], scope)
        return _expression(check["source"], scope)
    except BaseException as error:
        return False, _told(error)


def _expression(source: str, scope: dict[str, Any]) -> tuple[bool, str]:
    """An expression that must be true; of `left == right` both values are shown if they differ."""
    sides = _sides(source)
    if sides is None:
        value = eval(compile(source, "<check>", "eval"), scope)
        return bool(value), f"expected something true, found {value!r}"
    left, right = (eval(compile(side, "<check>", "eval"), scope) for side in sides)
    # A class of the solution's own could call itself equal to anything.
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
        if want.startswith("Traceback"):  # doctest compares the last line only
            want = "Traceback (most recent call last):\n" + want.rstrip().rpartition("\n")[2] + "\n"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(want, got, flags)
    return same, "" if same else f"expected {want.strip()!r}, found {got.strip()!r}"


def _called(source: str, scope: dict[str, Any]) -> tuple[bool, str]:
    """Call with made-up arguments: an error that they may have caused is told, but is no failure."""
    try:
        eval(compile(source, "<check>", "eval"), scope)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return True, _told(error)
    return True, ""


def _told(error: BaseException) -> str:
    """The error with the lines of the solution that led to it."""
    frames = [
        one for one in traceback.extract_tb(error.__traceback__) if one.filename.endswith("solution.py")
    ]
    where = "".join(f"line {one.lineno}: {one.line}\n" for one in frames[-3:])
    return f"{where}{type(error).__name__}: {error}"[:_DETAIL]


if __name__ == "__main__":
    main()
