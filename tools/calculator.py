"""calculator: exact arithmetic as a tool.

All numbers are fractions, so 0.1 + 0.2 is 0.3. Values that are not rational (roots, logarithms, pi) are
worked out to 50 digits. Every operation is bounded before it is carried out, so 9**9**9 is refused at once.

Expressions are parsed but never evaluated as Python: only the operators, functions and constants in this file
exist. The package simpleeval could replace only the walk over the syntax tree (`_value` and `_call`). Tried
with its version 1.0.8, the subclass was longer than these two functions: it had to switch off strings,
attributes, comparisons and conditions, bound the depth, read literals from their text (a float keeps only 17
digits), and raise the errors below in place of its own.

    CalculatorError (a ToolInputError)
    ├── ExpressionError   the text is not an arithmetic expression
    ├── UndefinedError    the expression has no value: division by zero, the root of a negative number
    └── TooLargeError     the expression or an intermediate number exceeds the bounds
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

from tools.errors import ToolInputError, error_text

MAX_LENGTH = 1000
"""Characters of an expression."""
MAX_DEPTH = 100
"""Levels of nesting."""
MAX_BITS = 20_000
"""Bits of a numerator or denominator: about 6,000 decimal digits."""
_DIGITS = 50
_CONTEXT = Context(prec=_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_COMMAS = "expected one number, found several between commas; write 1000, not 1,000"
# People write these signs: times, dot, division, minus, power, pi.
_SIGNS = tuple(zip("\u00d7\u00b7\u00f7\u2212^\u03c0", ("*", "*", "/", "-", "**", "pi"), strict=True))
# Models write these: 15% of 80, 3 x 4, 10 mod 3, math.sqrt(2).
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


class CalculatorError(ToolInputError):
    """An expression for which the calculator cannot give a value."""


class ExpressionError(CalculatorError):
    """The text is not an arithmetic expression."""


class UndefinedError(CalculatorError):
    """The expression has no value."""


class TooLargeError(CalculatorError):
    """The expression, or an intermediate number, exceeds the bounds."""


class CalculatorInput(BaseModel):
    """Arguments of calculator."""

    expression: str = Field(description="the arithmetic expression, for example (3 + 4) * 2.5")


def calculator_tool(*, name: str = "calculator") -> BaseTool:
    """Return a tool that works out an arithmetic expression exactly.

    >>> calculator_tool().invoke({"expression": "1/3 + 1/6"})
    '0.5'
    >>> calculator_tool().invoke({"expression": "1 / 0"})
    'error: division by zero has no value; check the divisor'
    """

    def calculate(expression: str) -> str:
        return shown(evaluate(expression))

    return StructuredTool.from_function(
        calculate,
        name=name,
        description=DESCRIPTION,
        args_schema=CalculatorInput,
        handle_tool_error=error_text,
        metadata={"kind": "read", "reaches": "nothing"},
    )


def evaluate(expression: str) -> Fraction:
    """Return the exact value of an expression; values that are not rational are rounded to 50 digits.

    Raises:
        ExpressionError: it is not an arithmetic expression.
        UndefinedError: it has no value.
        TooLargeError: it is too long or nested too deeply, or a number on the way is too large.
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
            node.kind = ast.get_source_segment(text, node)  # node.value is a float with only 17 digits
    return _value(tree.body, 0)


def _as_python(expression: str) -> str:
    """Return the expression with signs, ^ and percentages written as Python writes them.

    A % before a number, name or bracket stays the remainder operator.
    """
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
    """Return a literal's value, read from its text so that 0.1 is exactly a tenth."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"expected a number, found {value!r}; write it in digits")
    if isinstance(value, int):
        if text.startswith("00"):  # from 1,000 as an argument; Python itself refuses numbers like 050
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
    """Return the arguments of a call, unpacking a single list: max([1, 2]) is max(1, 2)."""
    if len(arguments) == 1 and isinstance(arguments[0], ast.List | ast.Tuple):
        return arguments[0].elts
    return arguments


def bounded(value: Fraction) -> Fraction:
    """Return the value itself; raise TooLargeError if it takes more than MAX_BITS bits."""
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLargeError(
            f"expected numbers of at most about {MAX_BITS * 3 // 10} digits; use smaller ones"
        )
    return value


def binary(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    """Return the result of an operator.

    Raises:
        ExpressionError: the operator is not one of + - * / // % **.
        UndefinedError: the result is undefined, as in a division by zero.
        TooLargeError: the result would exceed the bounds; it is not worked out.
    """
    if isinstance(op, ast.Pow):
        return _power(left, right)
    simple: dict[type[ast.operator], Callable[[], Fraction]] = {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
        ast.FloorDiv: lambda: Fraction(left // right),
        ast.Mod: lambda: left % right,
    }
    if type(op) not in simple:
        raise ExpressionError("expected + - * / // % or **, found another operator; rewrite that part")
    try:
        return bounded(simple[type(op)]())
    except ZeroDivisionError:
        raise UndefinedError("division by zero has no value; check the divisor") from None


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _root_power(base, exponent)
    if base == 0 and exponent < 0:
        raise UndefinedError("0 to a negative power has no value; check the exponent")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and size * abs(exponent) > MAX_BITS + size:
        raise TooLargeError(
            f"that power has more than about {MAX_BITS * 3 // 10} digits; use a smaller exponent"
        )
    if abs(base) in (0, 1):
        return Fraction(base if exponent % 2 or (base == 0 and exponent) else 1)
    return bounded(base ** int(exponent))


def _root_power(base: Fraction, exponent: Fraction) -> Fraction:
    if base < 0 or (base == 0 and exponent < 0):
        raise UndefinedError(f"{shown(base)} to the power of {shown(exponent)} has no real value; check both")
    if base == 0:
        return Fraction(0)
    if exponent.denominator == 2 and (root := _exact_root(base)) is not None:
        return _power(root, Fraction(exponent.numerator))
    logarithm = _CONTEXT.multiply(_CONTEXT.ln(_decimal(base)), _decimal(exponent))
    return _exp(logarithm)


def _exact_root(value: Fraction) -> Fraction | None:
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    exact = top * top == value.numerator and bottom * bottom == value.denominator
    return Fraction(top, bottom) if exact else None


def _decimal(value: Fraction) -> Decimal:
    return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))


def _exp(exponent: Decimal) -> Fraction:
    if abs(exponent) > MAX_BITS // 2:
        raise TooLargeError(
            f"that power has more than about {MAX_BITS * 3 // 10} digits; use a smaller exponent"
        )
    return bounded(Fraction(_CONTEXT.exp(exponent)))


def constant(name: str) -> Fraction:
    """Return pi or e to 50 digits; raise ExpressionError for any other name."""
    constants = {"pi": Fraction(_PI), "e": Fraction(_CONTEXT.exp(Decimal(1)))}
    if name not in constants:
        raise ExpressionError(f"expected a number, pi or e, found the name {name!r}; put its value in")
    return constants[name]


def _whole(value: Fraction, what: str) -> int:
    if value.denominator != 1:
        raise UndefinedError(f"{what}: expected a whole number, found {shown(value)}; round it first")
    return int(value)


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    shift = _whole(places, "round")
    if abs(shift) > 1000:
        raise TooLargeError(f"round: expected at most 1000 places, found {shift}; use fewer")
    return Fraction(round(value, shift)) if shift else Fraction(round(value))


def _factorial(value: Fraction) -> Fraction:
    number = _whole(value, "factorial")
    if number < 0:
        raise UndefinedError(f"factorial: expected 0 or more, found {number}; check the number")
    if number > 1500:
        raise TooLargeError(f"factorial: expected at most 1500, found {number}; use a smaller number")
    return Fraction(math.factorial(number))


def _logarithm(value: Fraction, base: Fraction | None = None) -> Fraction:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise UndefinedError(
            "a logarithm needs a number above 0 and a base above 0 that is not 1; check both"
        )
    natural = _CONTEXT.ln(_decimal(value))
    if base is None:
        return Fraction(natural)
    quotient = _CONTEXT.divide(natural, _CONTEXT.ln(_decimal(base)))
    nearest = round(quotient)
    exact = abs(nearest) < 5000 and base**nearest == value
    return Fraction(nearest) if exact else Fraction(quotient)


def _sine(value: Fraction) -> Fraction:
    """Return the sine by its Taylor series, after subtracting whole turns.

    60 digits of pi are precise enough for angles of up to 10^9 radians.
    """
    if abs(value) > 10**9:
        raise TooLargeError("expected an angle of at most 10^9 radians; take out whole turns")
    turn = 2 * Fraction(_PI)
    angle = Fraction(_CONTEXT.create_decimal(_decimal(value % turn)))
    if angle > turn / 2:
        angle -= turn
    term, total, order = angle, angle, 1
    while abs(term) > Fraction(1, 10**_DIGITS):
        order += 2
        term = Fraction(_decimal(-term * angle * angle / ((order - 1) * order)))
        total += term
    return Fraction(_decimal(total)).limit_denominator(10**40)


def _cosine(value: Fraction) -> Fraction:
    return _sine(value + Fraction(_PI) / 2)


def _whole_numbers(function: Callable[..., int], what: str) -> Callable[..., Fraction]:
    return lambda *values: Fraction(function(*(_whole(one, what) for one in values)))


_Function = Callable[..., Fraction]
FUNCTIONS: dict[str, tuple[int, int, _Function]] = {
    "abs": (1, 1, abs),
    "ceil": (1, 1, lambda value: Fraction(math.ceil(value))),
    "cos": (1, 1, _cosine),
    "exp": (1, 1, lambda value: _exp(_decimal(value))),
    "factorial": (1, 1, _factorial),
    "floor": (1, 1, lambda value: Fraction(math.floor(value))),
    "gcd": (1, 100, _whole_numbers(math.gcd, "gcd")),
    "lcm": (1, 100, _whole_numbers(math.lcm, "lcm")),
    "ln": (1, 1, _logarithm),
    "log": (1, 2, _logarithm),
    "log10": (1, 1, lambda value: _logarithm(value, Fraction(10))),
    "log2": (1, 1, lambda value: _logarithm(value, Fraction(2))),
    "max": (1, 100, max),
    "min": (1, 100, min),
    "round": (1, 2, _round),
    "sin": (1, 1, _sine),
    "sqrt": (1, 1, lambda value: _root_power(value, Fraction(1, 2))),
    "sum": (1, 100, lambda *values: sum(values, Fraction(0))),
    "tan": (1, 1, lambda value: _sine(value) / _cosine(value)),
}


def shown(value: Fraction) -> str:
    """Return a value as text: exact if its decimals end, else 15 digits, followed by a short fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    decimal = _decimal(value)
    if rest == 1 and Fraction(decimal) == value and len(decimal.as_tuple().digits) <= 30:
        return format(decimal.normalize(_CONTEXT), "f" if abs(decimal.adjusted()) < 30 else "e")
    short = Context(prec=15).create_decimal(decimal).normalize()
    text = format(short, "f" if -7 < short.adjusted() < 16 else "e")
    small = max(abs(value.numerator), value.denominator) < 10**6
    return f"{text} (exactly {value})" if small else text
