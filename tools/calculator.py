"""calculator: exact arithmetic as a tool.

Reads expressions: parsed, never evaluated as Python, so names, attributes, indexing and calls of anything but
the functions listed here do not exist. What the operators and functions do, and their bounds, is in
`tools.arithmetic`.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from tools.arithmetic import (
    FUNCTIONS,
    MAX_BITS,
    ExpressionError,
    TooLargeError,
    UndefinedError,
    binary,
    bounded,
    constant,
    shown,
)
from tools.errors import as_result

MAX_LENGTH = 1000
MAX_DEPTH = 100
_COMMAS = "expected one number, found several between commas; write 1000, not 1,000"
# Signs as people write them: times, dot, division, minus, power, pi.
_SIGNS = tuple(zip("\u00d7\u00b7\u00f7\u2212^\u03c0", ("*", "*", "/", "-", "**", "pi"), strict=True))
# And as models write them: 15% of 80, 3 x 4, 10 mod 3, math.sqrt(2).
_SPELLINGS = (
    (re.compile(r"%\s*of\b"), "% *"),
    (re.compile(r"(?<=[\d)])(?:\s+x\s*|\s*x\s+)(?=[\d(.])"), " * "),  # but 0x10 is sixteen
    (re.compile(r"\bmod\b"), "%"),
    (re.compile(r"\bmath\."), ""),
)

DESCRIPTION = (
    "Work out an arithmetic expression exactly: + - * / // % ** ^, parentheses, percentages like 15%, and "
    "the functions sqrt, abs, round, floor, ceil, min, max, sum, gcd, lcm, factorial, exp, ln, log10, log2, "
    "log, sin, cos, tan (radians), with pi and e. Example: (1200 * 7.5%) / 12"
)


class CalculatorInput(BaseModel):
    """What the tool takes."""

    expression: str = Field(description="the arithmetic expression, for example (3 + 4) * 2.5")


def calculator_tool(*, name: str = "calculator") -> BaseTool:
    """Make the tool; an expression without a value comes back as a message that says why."""

    def calculate(expression: str) -> str:
        return shown(evaluate(expression))

    return StructuredTool.from_function(
        calculate,
        name=name,
        description=DESCRIPTION,
        args_schema=CalculatorInput,
        handle_tool_error=as_result,
    )


def evaluate(expression: str) -> Fraction:
    """The exact value of an expression (functions without one: rounded to 50 digits).

    Raises:
        ExpressionError: it is no arithmetic expression.
        UndefinedError: it has no value.
        TooLargeError: it is longer, deeper or larger than the bounds.
    """
    if len(expression) > MAX_LENGTH:
        raise TooLargeError(f"expected at most {MAX_LENGTH} characters, found {len(expression)}; split it up")
    text = _as_python(expression)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(
            f"expected an arithmetic expression like (3 + 4) * 2.5, found {expression!r}; correct it"
        ) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.kind = ast.get_source_segment(text, node)  # a float would keep 17 of its digits
    return _value(tree.body, 0)


def _as_python(expression: str) -> str:
    """Write signs, ^ and 15% as Python does (a % before a number or a bracket is the remainder)."""
    text = expression.strip().rstrip("=").strip()
    for sign, python in _SIGNS:
        text = text.replace(sign, python)
    for spelling, python in _SPELLINGS:
        text = spelling.sub(python, text)
    pieces = text.split("%")
    for at, piece in enumerate(pieces[1:], 1):
        following = piece.lstrip()
        remainder = following[:1].isalnum() or following[:1] in {"(", "."}
        pieces[at] = ("%" if remainder else "/100") + piece
    return "".join(pieces)


def _value(node: ast.expr, depth: int) -> Fraction:
    if depth > MAX_DEPTH:
        raise TooLargeError(f"expected brackets at most {MAX_DEPTH} deep; split the expression up")
    if isinstance(node, ast.Constant):
        return _number(node.value, node.kind or "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return binary(node.op, _value(node.left, depth + 1), _value(node.right, depth + 1))
    if isinstance(node, ast.Name):
        return constant(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _call(node.func.id, node.args, depth)
    if isinstance(node, ast.Tuple):
        raise ExpressionError(_COMMAS)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Constant):
        raise ExpressionError(f"expected a sign before (, found {_source(node)!r}; write 2 * (3 + 4)")
    raise ExpressionError(
        f"expected numbers, + - * / // % ** and functions, found {_source(node)!r}; rewrite that part"
    )


def _source(node: ast.expr) -> str:
    try:
        return ast.unparse(node)[:60]
    except RecursionError:
        return type(node).__name__


def _number(value: object, text: str) -> Fraction:
    """A literal, read from its text so that 0.1 is a tenth."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"expected a number, found {value!r}; write it in digits")
    if isinstance(value, int):
        if text.startswith("00"):  # the end of 1,000 in a call; Python itself refuses 050
            raise ExpressionError(_COMMAS)
        return bounded(Fraction(value))
    exponent = text.lower().partition("e")[2].lstrip("+-").replace("_", "")
    if len(exponent) > 4 or int(exponent or 0) > MAX_BITS // 4:
        raise TooLargeError(
            f"expected an exponent of at most {MAX_BITS // 4}, found {text!r}; use a smaller one"
        )
    return bounded(Fraction(text.replace("_", "")))


def _call(name: str, arguments: list[ast.expr], depth: int) -> Fraction:
    values = [_value(one, depth + 1) for one in _flat(arguments)]
    least, most, function = FUNCTIONS.get(name, (0, 0, None))
    if function is None:
        raise ExpressionError(f"expected one of {', '.join(sorted(FUNCTIONS))}, found {name!r}")
    if not least <= len(values) <= most:
        raise ExpressionError(
            f"{name}: expected {least} to {most} numbers, found {len(values)}; correct the call"
        )
    try:
        return bounded(function(*values))
    except ZeroDivisionError:
        raise UndefinedError(f"{name} has no value there; check its numbers") from None


def _flat(arguments: list[ast.expr]) -> list[ast.expr]:
    """max([1, 2]) is max(1, 2)."""
    if len(arguments) == 1 and isinstance(arguments[0], ast.List | ast.Tuple):
        return arguments[0].elts
    return arguments
