"""code_chain with scripted models and the real sandbox: it claims what it saw, and no more."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any

import pytest
from fakes import ScriptedChat
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.code import CodeEvent, CodeResult, code_chain
from chains.code.source import code_of, under_stub
from sandbox import Limits, Sandbox

RUN = Sandbox(Limits(wall_s=10, cpu_s=5)).run
WRONG = "Sure!\n```python\ndef double(x):\n    return x * 3\n```"
RIGHT = "Here it is:\n```python\ndef double(x):\n    return x * 2\n```\nThat doubles it."
REQUEST: dict[str, Any] = {"request": "Write a function that doubles", "examples": ["double(2) == 4"]}


def _result(replies: list[Any], request: Any = None, **options: Any) -> CodeResult:
    model = ScriptedChat(replies=["def double(x):", *replies])
    return code_chain(model, RUN, **options).invoke(request or REQUEST)


def test_a_right_version_is_verified_by_the_users_examples() -> None:
    result = _result([RIGHT])
    assert (result.status, result.verified, len(result.runs)) == ("examples", True, 1)
    assert "return x * 2" in result.code


def test_a_wrong_version_is_repaired_with_its_error() -> None:
    model = ScriptedChat(replies=["def double(x):", WRONG, RIGHT])
    result = code_chain(model, RUN).invoke(REQUEST)
    assert result.status == "examples"
    assert [run.passed for run in result.runs] == [False, True]
    repair = str(model.seen[2][-1].content)
    assert "expected 4, found 6" in repair and "return x * 3" in repair


def test_a_version_that_stays_wrong_is_failed_and_says_why() -> None:
    result = _result([WRONG], repairs=1)
    assert (result.status, result.verified, len(result.runs)) == ("failed", False, 2)
    assert "expected 4, found 6" in result.explanation


def test_without_examples_it_only_ran() -> None:
    request = "Write a python function to generate a list of random 1000 numbers between 1 and 10000"
    body = "return [random.randint(1, 10000) for _ in range(1000)]"
    good = f"```python\nimport random\ndef numbers():\n    {body}\n```"
    model = ScriptedChat(replies=["def numbers():", good])
    result = code_chain(model, RUN).invoke(request)
    assert (result.status, result.verified) == ("ran", False)
    kinds = [one.check.kind for one in result.runs[0].checks]
    assert kinds.count("property") == 2 and "smoke" in kinds
    assert "no example of yours" in result.explanation


def test_a_signature_for_stated_numbers_takes_no_arguments_and_is_checked() -> None:
    request = "Write a function to generate a list of random 1000 numbers between 1 and 10000"
    body = "return [randint(1, 10000) for _ in range(1000)]"
    missing = f"```python\ndef numbers():\n    {body}\n```"
    model = ScriptedChat(
        replies=[
            "def numbers(n: int) -> list:",
            missing,
            "```python\nfrom random import randint\n" + missing[10:],
        ]
    )
    result = code_chain(model, RUN).invoke(request)
    assert [run.passed for run in result.runs] == [False, True]
    assert "NameError" in result.runs[0].problem() and "def numbers()" in result.code


def test_an_import_that_the_model_forgot_costs_no_repair() -> None:
    request = "Write a function to generate a list of random 1000 numbers between 1 and 10000"
    body = "return [random.randint(1, 10000) for _ in range(1000)]"
    model = ScriptedChat(replies=["def numbers():", f"```python\ndef numbers():\n    {body}\n```"])
    result = code_chain(model, RUN).invoke(request)
    assert [run.passed for run in result.runs] == [True]
    assert result.code.startswith("import random\n")


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("return len(word) + n", "ran", "as count('abc', 3)"),
        ("return missing", "failed", "NameError"),
        ("raise ValueError('no such word')", "ran", "it raised ValueError: no such word"),
        ("raise NotImplementedError", "failed", "NotImplementedError"),
    ],
)
def test_with_nothing_to_check_it_is_called_with_made_up_arguments(body: str, status: str, told: str) -> None:
    code = f"```python\ndef count(word: str, n):\n    {body}\n```"
    model = ScriptedChat(replies=["def count(word: str, n):", code])
    result = code_chain(model, RUN, repairs=0).invoke("Write a function that counts")
    assert result.status == status and told in result.explanation, result


@pytest.mark.parametrize("body", ["[1] * 999", "[0] * 1000", "[20000] * 1000", "None", "1 / 0"])
def test_a_stated_property_that_does_not_hold_is_failed(body: str) -> None:
    request = "Write a function to generate a list of random 1000 numbers between 1 and 10000"
    model = ScriptedChat(replies=["def numbers():", f"```python\ndef numbers():\n    return {body}\n```"])
    assert code_chain(model, RUN, repairs=0).invoke(request).status == "failed"


@pytest.mark.parametrize(
    "trick",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__",
        "print('passed', True)",
        "import atexit, os\natexit.register(os._exit, 0)",
        "while True: pass",
    ],
)
def test_code_that_cheats_passes_nothing(trick: str) -> None:
    value = "Same(3)" if "Same" in trick else "x * 3"
    code = f"```python\n{trick}\ndef double(x):\n    return {value}\n```"
    result = code_chain(ScriptedChat(replies=["def double(x):", code]), RUN, repairs=0).invoke(REQUEST)
    assert result.status == "failed"


def test_the_best_of_several_candidates_is_chosen() -> None:
    request = {"request": "double", "examples": ["double(2) == 4", "double(3) == 6", "double(0) == 0"]}
    half = "```python\ndef double(x):\n    return 4 if x == 2 else 1\n```"
    model = ScriptedChat(replies=["def double(x):", half, WRONG, "nothing"])
    result = code_chain(model, RUN, repairs=0, candidates=3).invoke(request)
    assert result.status == "failed"
    assert [sum(one.passed for one in run.checks) for run in result.runs] == [2, 2, 0]
    assert "4 if x == 2" in result.code


def test_the_users_signature_and_docstring_are_kept_and_its_doctests_count() -> None:
    stub = (
        "from typing import List\n\n\ndef total(numbers: List[int], start: int = 0) -> int:\n"
        '    """ Sum of the numbers.\n    >>> total([1, 2])\n    3\n    >>> total([])\n    0\n    """\n'
    )
    body = "def total(xs, first=0):\n    '''other'''\n    return int(math.fsum(xs)) + first"
    reply = f"```python\nimport math\n{body}\n```"
    result = code_chain(ScriptedChat(replies=[reply]), RUN).invoke(stub)
    assert result.status == "examples", result
    assert stub.strip() in result.code and "other" not in result.code


def test_a_program_is_run_as_one() -> None:
    result = code_chain(ScriptedChat(replies=["```python\nprint(6 * 7)\n```"]), RUN).invoke(
        "Print six times seven"
    )
    assert (result.status, result.runs[0].stdout.strip()) == ("ran", "42")


def test_it_streams_its_steps_and_last_the_result() -> None:
    model = ScriptedChat(replies=["def double(x):", WRONG, RIGHT])
    steps = list(code_chain(model, RUN).stream(REQUEST))
    assert [one.step for one in steps[:-1] if isinstance(one, CodeEvent)] == [
        *("plan", "write", "run", "repair", "run", "choose")
    ]
    assert isinstance(steps[-1], CodeResult) and steps[-1].verified


async def test_it_runs_in_an_event_loop() -> None:
    result = await code_chain(ScriptedChat(replies=["def double(x):", RIGHT]), RUN).ainvoke(REQUEST)
    assert result.verified


def test_a_reply_without_code_gives_code_that_parses_and_failed() -> None:
    result = _result(["I cannot do that."], repairs=0)
    assert result.status == "failed" and result.runs[0].status == "no code"
    ast.parse(result.code)
    assert "def double(" in result.code


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_what_comes_out_of_any_reply_parses(reply: str) -> None:
    ast.parse(code_of(reply))
    ast.parse(code_of(f"```python\ndef f():\n    return 1\n{reply}\n```"))


@pytest.mark.parametrize(
    "body", ["return a + b", "'''doc'''\n    return a + b", "if a:\n        return b\n    return a"]
)
def test_a_body_goes_under_the_users_signature(body: str) -> None:
    code = under_stub(f"def g(a, b):\n    {body}\n", "def add(x: int, y: int) -> int:", "add")
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["add"](0, 5) in (5, 0) and "x: int, y: int" in code


def test_importing_the_chain_imports_no_torch() -> None:
    code = "import sys, chains.code; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
