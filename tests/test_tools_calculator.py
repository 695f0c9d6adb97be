"""The calculator agrees with Python's fractions and refuses hostile expressions."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.calculator import (
    CalculatorError,
    ExpressionError,
    TooLargeError,
    UndefinedError,
    calculator_tool,
    evaluate,
    shown,
)


def _expressions(count: int) -> Iterator[tuple[str, str]]:
    """Yield (expression, the same with every number as a Fraction), drawn with a fixed seed."""
    draw = random.Random(20)

    def term(depth: int) -> tuple[str, str]:
        if depth == 0 or draw.random() < 0.25:
            number = draw.choice(
                [str(draw.randint(0, 999)), f"{draw.randint(0, 99)}.{draw.randint(0, 999):03d}"]
            )
            return number, f"Fraction('{number}')"
        shape = draw.random()
        if shape < 0.15:
            one, same = term(depth - 1)
            return f"-({one})", f"-({same})"
        left, right = term(depth - 1), term(depth - 1)
        if shape < 0.25:
            power = str(draw.randint(0, 4))
            return f"({left[0]}) ** {power}", f"({left[1]}) ** {power}"
        sign = draw.choice(["+", "-", "*", "/", "//", "%"])
        return f"({left[0]}) {sign} ({right[0]})", f"({left[1]}) {sign} ({right[1]})"

    for _ in range(count):
        yield term(3)


@pytest.mark.parametrize(("expression", "exact"), list(_expressions(200)))
def test_two_hundred_expressions_agree_with_python(expression: str, exact: str) -> None:
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(UndefinedError):
            evaluate(expression)
        return
    assert evaluate(expression) == expected


@pytest.mark.parametrize("name", ["sqrt", "exp", "ln", "log10", "log2", "sin", "cos", "tan"])
@pytest.mark.parametrize("value", ["0.25", "1", "2", "3.7", "100", "12.5"])
def test_functions_agree_with_math(name: str, value: str) -> None:
    python = {"ln": math.log}.get(name) or getattr(math, name)
    assert float(evaluate(f"{name}({value})")) == pytest.approx(python(float(value)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333333 (exactly 1/3)"),
        ("15% * 200", "30"),
        ("10 % 3", "1"),
        ("(1200 * 7.5%) / 12", "7.5"),
        ("2^10", "1024"),
        ("sqrt(16)", "4"),
        ("log(8, 2)", "3"),
        ("factorial(20)", "2432902008176640000"),
        ("round(2.675, 2)", "2.68"),
        ("123456789.123456789 * 2", "246913578.246913578"),
        ("2 \u00d7 3 \u2212 1 =", "5"),
        ("max([1, 2, 3])", "3"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("sin(pi/2)", "1"),
        ("15% of 80", "12"),
        ("3 x 4", "12"),
        ("(1 + 1)x (2)", "4"),
        ("0x10", "16"),
        ("10 mod 4", "2"),
        ("math.sqrt(16) + math.pi * 0", "4"),
    ],
)
def test_values_are_shown_exactly(expression: str, text: str) -> None:
    assert calculator_tool().invoke({"expression": expression}) == text


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        *(
            (one, TooLargeError)
            for one in ("9**9**9", "9^9^9", "10**(10**10)", "factorial(10**9)", "1e999999999")
        ),
        *(
            (one, TooLargeError)
            for one in ("2**-(9**9)", "exp(10**9)", "round(1, 10**9)", "sin(10**99)", "1" * 1001)
        ),
        *((one, TooLargeError) for one in ("(9**999)**999", "1.5**(2**40)", "-" * 500 + "1", "2**20001")),
        *((one, UndefinedError) for one in ("1/0", "1//0", "1%0", "sqrt(-1)", "0**-1", "ln(0)", "log(4, 1)")),
        *((one, UndefinedError) for one in ("(-8)**(1/3)", "factorial(-1)", "factorial(1.5)")),
        *(
            (one, ExpressionError)
            for one in ("", "x", "1 +", "(1", "__import__('os')", "'a' * 9", "1 if 1 else 2")
        ),
        *(
            (one, ExpressionError)
            for one in ("(1).real", "[1][0]", "lambda: 1", "1j", "True", "f'{1}'", "1 < 2")
        ),
        *(
            (one, ExpressionError)
            for one in ("sqrt", "sqrt()", "open('x')", "(x := 1)", "1; 2", "max(*[1])", "\0")
        ),
    ],
)
def test_hostile_and_wrong_expressions_are_refused_at_once(expression: str, error: type[Exception]) -> None:
    started = time.process_time()
    with pytest.raises(error):
        evaluate(expression)
    assert time.process_time() - started < 1
    assert str(calculator_tool().invoke({"expression": expression})).startswith("error: ")
    call = {"name": "calculator", "args": {"expression": expression}, "id": "c", "type": "tool_call"}
    assert calculator_tool().invoke(call).status == "error"


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("1,000 * 3", "write 1000, not 1,000"),
        ("max(1,000, 3)", "write 1000, not 1,000"),
        ("2(3 + 4)", "write 2 * (3 + 4)"),
    ],
)
def test_what_would_be_misread_is_refused_with_the_right_spelling(expression: str, told: str) -> None:
    with pytest.raises(ExpressionError) as error:
        evaluate(expression)
    assert told in str(error.value)


@settings(max_examples=200, deadline=2000)
@given(st.text(alphabet="0123456789.+-*/%^()e, sqrtpigcdl", max_size=40))
def test_any_text_gives_a_number_or_an_error_of_its_own(expression: str) -> None:
    try:
        value = evaluate(expression)
    except CalculatorError:
        return
    assert isinstance(shown(value), str)
