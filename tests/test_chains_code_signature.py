"""Signatures fitted to examples, versions that come back unchanged, functions that a reply repeats."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import ScriptedChat

from chains.code import code_chain
from chains.code.chain import sampled
from chains.code.fixups import fit_signature, under_name
from chains.code.result import Check
from chains.code.source import code_of
from sandbox import Limits, Sandbox

RUN = Sandbox(Limits(wall_s=10)).run
WRONG = "```python\ndef double(x):\n    return x * 3\n```"
RIGHT = "```python\ndef double(x):\n    return x * 2\n```"
REQUEST: dict[str, Any] = {"request": "Write a function that doubles", "examples": ["double(2) == 4"]}


@pytest.mark.parametrize(
    ("proposed", "examples", "fitted"),
    [
        ("def f(text: str, count: int) -> int:", ["f('a b') == 2"], "def f(text: str) -> int:"),
        ("def f(numbers: list[int]) -> int:", ["f([1, 2]) == [2]"], "def f(numbers: list[int]) -> list:"),
        ("def f(word: str) -> str:", ["not f(3)", "f(5)"], "def f(word: int) -> bool:"),
        ("def f():", ["f(1, 2) == 3", "f(1) == 3"], "def f(value1, value2=None):"),
        ("async def f(a, b) -> int:", ["f(1) == 2"], "async def f(a) -> int:"),
        ("def f(a, b) -> dict:", ["sum(f([1])) == 2", "f([2]) == [1]"], "def f(a) -> list:"),
    ],
)
def test_a_signature_is_fitted_to_the_examples(proposed: str, examples: list[str], fitted: str) -> None:
    assert fit_signature(proposed, [Check(kind="example", source=one) for one in examples]) == fitted


@pytest.mark.parametrize(
    ("proposed", "examples"),
    [
        ("def f(a: float, b: int = 2) -> float:", ["f(1) == 3", "f(1, 2) == 4"]),
        ("def f(*values: int) -> int:", ["f(1, 2) == 3"]),
        ("def f(a, k):", ["f(1, k=2) == 3"]),
        ("def f(a, k):", ["f(*[1]) == 3"]),
        ("def f(a: Optional[int]) -> Sequence[int]:", ["f('x') == [1]"]),
        ("def f(a: list[int] | None) -> 'Frame':", ["f('x') == 2"]),
        ("def f(a: str) -> str:", ["g(2) == 3"]),
        ("def f(a: str) -> str:", []),
        ("def f(a: str) -> int:", ["f('x') == 2 or f('x') == 'y'", "f('x') == limit"]),
    ],
)
def test_what_no_example_contradicts_is_kept(proposed: str, examples: list[str]) -> None:
    assert fit_signature(proposed, [Check(kind="example", source=one) for one in examples]) == proposed


def test_the_model_is_shown_the_fitted_signature() -> None:
    model = ScriptedChat(replies=["def multiply(a: str, b: str) -> str:", RIGHT])
    assert code_chain(model, RUN).invoke(REQUEST).verified
    assert "def double(a: int) -> int:" in str(model.seen[1][-1].content)


def test_a_repair_that_comes_back_unchanged_is_written_anew() -> None:
    model = ScriptedChat(replies=["def double(x):", WRONG, WRONG, RIGHT])
    result = code_chain(model, RUN, repairs=1).invoke(REQUEST)
    assert result.verified and [run.passed for run in result.runs] == [False, True]
    assert [str(one[-1].content).startswith("Write a Python function") for one in model.seen[1:]] == [
        True,
        False,
        True,
    ]


def test_a_sampled_model_keeps_what_was_bound_and_takes_a_seed_where_it_has_one() -> None:
    class Seeded(ScriptedChat):
        seed: int | None = None

    other: Any = sampled(Seeded(replies=[]).bind(stop=["x"]).with_config(tags=["t"]), seed=7)
    assert other.kwargs == {"stop": ["x"], "temperature": 0.8, "seed": 7} and other.config["tags"] == ["t"]
    plain: Any = sampled(ScriptedChat(replies=[]), seed=7)
    assert plain.kwargs == {"temperature": 0.8}


def test_a_function_that_a_reply_holds_twice_is_kept_once() -> None:
    once = "@cache\ndef f():\n    return 1\n"
    twice = f"```python\n{once}```\nAgain:\n```python\n{once}\n\nx = f()\n```"
    assert code_of(twice) == f"{once}\n\nx = f()\n"
    other = "def f():\n    return 1\n\n\ndef f():\n    return 2\n"
    assert code_of(f"```python\n{other}```") == other


def test_examples_of_use_that_would_fail_are_left_out_and_the_function_gets_the_users_name() -> None:
    reply = (
        "```python\ndef twice(x):\n    return twice_of(x)\n\ndef twice_of(x):\n    return 2 * x\n\n"
        "# Example:\nprint(double(2))\nif __name__ == '__main__':\n    twice(1)\n```"
    )
    result = code_chain(ScriptedChat(replies=["def double(x):", reply]), RUN, repairs=0).invoke(REQUEST)
    assert result.verified and "print" not in result.code and "Example" not in result.code
    assert "double" in result.code and "__main__" not in result.code


def test_a_name_that_is_taken_in_the_function_is_given_beside_its_own() -> None:
    code = under_name("def total(numbers):\n    return sum(numbers)\n", "total", "numbers")
    assert code.endswith("\n\nnumbers = total\n")
    assert under_name("def fib_rec(n):\n    return fib_rec(n - 1)\n", "fib_rec", "fib").count("fib(") == 2
