"""The arguments of code_chain: requests, examples as people write them, options, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import ScriptedChat

from chains.code import code_chain
from chains.code.request import read_request
from chains.errors import EmptyInputError, InputError, NotTextError, OptionError
from sandbox import Sandbox

RUN = Sandbox().run
RIGHT = "```python\ndef double(x):\n    return x * 2\n```"


@pytest.mark.parametrize(
    "text",
    [
        "Write a function f with f(2) == 4",
        "Write f. `f(2) -> 4`",
        "Write f so that f(2) returns 4.",
        "a function, e.g.\nf(2) == 4\n",
    ],
)
def test_examples_in_prose_are_found(text: str) -> None:
    request = read_request(text)
    assert [one.source for one in request.checks] == ["f(2) == 4"] and request.name == "f"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("  ", EmptyInputError),
        ({"request": "f", "examples": ["f(2 == 4"]}, InputError),
        ({"request": "f", "signature": "not python"}, InputError),
        (None, NotTextError),
        (b"a function", NotTextError),
        (["a function"], NotTextError),
        ({"examples": ["f(2) == 4"]}, NotTextError),
        ({"request": "f", "example": ["f(2) == 4"]}, InputError),
        ({"request": "f", "examples": {"f(2)": 4}}, InputError),
        ({"request": "f", "examples": [("f(2)", "4")]}, InputError),
        ({"request": "f", "examples": 4}, InputError),
    ],
)
def test_bad_input_is_refused_before_the_model_is_asked(given: Any, error: type[Exception]) -> None:
    model = ScriptedChat(replies=[RIGHT])
    with pytest.raises(error, match="found"):
        code_chain(model, RUN).invoke(given)
    assert model.seen == []


@pytest.mark.parametrize(
    "options",
    [
        {"repairs": -1},
        {"repairs": 11},
        {"candidates": 0},
        {"candidates": True},
        {"repairs": "1"},
        {"candidates": 2.5},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="pass a number in that range"):
        code_chain(ScriptedChat(replies=[RIGHT]), RUN, **options)
    with pytest.raises(OptionError, match=r"pass Sandbox\(\).run"):
        code_chain(ScriptedChat(replies=[RIGHT]), Sandbox())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="found None: pass ChatLocal"):
        code_chain(None, RUN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("example", "checks"),
    [
        ("f(2) == 4", ["f(2) == 4"]),
        ("assert f(2) == 4, 'two twos'", ["f(2) == 4"]),
        ("f(2) == 4, f(3) == 6", ["f(2) == 4", "f(3) == 6"]),
        ("f(2) == 4; f(3) == 6", ["f(2) == 4", "f(3) == 6"]),
        ("f(2) == 4\nassert f(3) == 6\n", ["f(2) == 4", "f(3) == 6"]),
        ("f(2) -> 4", ["f(2) == 4"]),
        ("f(2) = 4", ["f(2) == 4"]),
        ("f('a, b') == 'c; d'  # as it should", ["f('a, b') == 'c; d'"]),
        ("not f('')", ["not f('')"]),
    ],
)
def test_an_example_is_read_as_it_is_written(example: str, checks: list[str]) -> None:
    found = read_request({"request": "a function f", "examples": [example]}).checks
    assert [(one.kind, one.source) for one in found] == [("example", one) for one in checks]


@pytest.mark.parametrize(
    "example",
    [
        "",
        "()",
        "True",
        "2 == 2",
        "[f(2) == 5]",
        "(f(2) == 5 for _ in 'a')",
        "lambda: f(2)",
        "x = 3",
        "import f",
    ],
)
def test_an_example_that_no_code_could_fail_is_refused(example: str) -> None:
    with pytest.raises(InputError, match="nothing of what the code does"):
        read_request({"request": "a function f", "examples": [example]})


@pytest.mark.parametrize("example", ["assert double(2) == 5, 'five'", "double(2) == 4, double(3) == 7"])
def test_no_way_of_writing_an_example_makes_wrong_code_verified(example: str) -> None:
    model = ScriptedChat(replies=["def double(x):", RIGHT])
    result = code_chain(model, RUN, repairs=0).invoke({"request": "double", "examples": [example]})
    assert (result.status, result.verified) == ("failed", False)
