"""Exact arithmetic in fractions: operators, functions, constants.

Numbers are fractions from beginning to end, so 0.1 + 0.2 is 0.3; what has no exact value (roots, logarithms,
pi) is worked out to 50 digits. Every operation is bounded before it is done, so 9**9**9 is refused at once.
Knows no text but that of its errors: `tools.calculator` reads the expressions.

    CalculatorError (a ToolInputError)
    ├── ExpressionError   it is no arithmetic expression
    ├── UndefinedError    it has no value: division by zero, the root of a negative number
    └── TooLargeError     the expression or a number on the way is larger than the bounds
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction

from tools.errors import ToolInputError

MAX_BITS = 20_000
"""Of a number on the way: about 6,000 decimal digits."""
_DIGITS = 50
_CONTEXT = Context(prec=_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


class CalculatorError(ToolInputError):
    """An expression that the calculator cannot give a value for."""


class ExpressionError(CalculatorError):
    """It is no arithmetic expression."""


class UndefinedError(CalculatorError):
    """It has no value."""


class TooLargeError(CalculatorError):
    """The expression, or a number on the way, is larger than the bounds."""


def bounded(value: Fraction) -> Fraction:
    """The value itself; TooLargeError where its numerator or denominator is over MAX_BITS bits."""
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLargeError(
            f"expected numbers of at most about {MAX_BITS * 3 // 10} digits; use smaller ones"
        )
    return value


def binary(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    """What an operator makes of two numbers.

    Raises:
        ExpressionError: the operator is none of + - * / // % **.
        UndefinedError: it has no value there, a division by zero for one.
        TooLargeError: the result would be over the bounds; it is not worked out.
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
    """The value of pi or e to 50 digits; ExpressionError for any other name."""
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
    """Taylor's series after taking out whole turns; 60 digits of pi hold for angles up to 10^9 radians."""
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
    """A value as text: exact where it ends, else 15 digits with its fraction."""
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
