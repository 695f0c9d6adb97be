"""Arguments are copied exactly from the message, or left to the model."""

from __future__ import annotations

from typing import Any

import pytest

from agent.planner.arguments import plain_arguments, sum_in
from tools import calculator_tool


@pytest.mark.parametrize(
    ("message", "result"),
    [
        ("What is 15% of 240?", "36"),
        ("how much is 20 percent of 80", "16"),
        ("17 * 23", "391"),
        ("What is (3 + 4) * 2?", "14"),
        ("Please work out 12 times 12.", "144"),
        ("2 to the power of 10 =", "1024"),
        ("100 divided by 8?", "12.5"),
        ("Wie viel ist 15 Prozent von 60?", "9"),
        ("1,234 x 5", "6170"),
        ("-3 + 5", "2"),
        ("what's 7 minus 10", "-3"),
    ],
)
def test_sums_in_words_and_signs(message: str, result: str) -> None:
    found = plain_arguments("calculator", message)
    assert found is not None, sum_in(message)
    assert calculator_tool().invoke(found).replace(",", "") == result


@pytest.mark.parametrize(
    "message",
    [
        "Three friends share 27 apples and 9 pears, how many each?",
        "I paid 12 for 3 and then 5 + 6 more",
        "What happened in 1989?",
        "no numbers",
        "call 555-1234 about order 17",
    ],
)
def test_what_is_no_single_sum_is_left_to_the_model(message: str) -> None:
    assert plain_arguments("calculator", message) is None


@pytest.mark.parametrize(
    ("message", "labels", "text"),
    [
        ("Is this positive or negative: I loved it", ["positive", "negative"], "I loved it"),
        ("Classify as sports, politics, or weather: It rains", ["sports", "politics", "weather"], "It rains"),
        ('Spam oder Ham: "Win now"', ["Spam", "Ham"], "Win now"),
        (
            "urgent, normal or low: at 10:30 the pump broke",
            ["urgent", "normal", "low"],
            "at 10:30 the pump broke",
        ),
    ],
)
def test_labels_and_text(message: str, labels: list[str], text: str) -> None:
    assert plain_arguments("classify", message) == {"text": text, "labels": labels}


@pytest.mark.parametrize(
    ("tool", "message", "expected"),
    [
        ("classify", "Which category fits this mail?", None),
        ("classify", "good or good: x", None),
        (
            "summarize",
            "Summarize: " + "The shop opens at nine. " * 3,
            {"text": ("The shop opens at nine. " * 3).strip()},
        ),
        ("summarize", "Summarize it", None),
        ("run_python", "Run print(3)", {"code": "print(3)"}),
        ("run_python", "please run print(sum(range(10)))", {"code": "print(sum(range(10)))"}),
        ("run_python", "run x = 3; print(x)", {"code": "x = 3; print(x)"}),
        ("run_python", "Run the tests", None),
        ("run_python", "what does print(x) do", None),
        ("run_python", "Run this: print(3)", {"code": "print(3)"}),
        ("remember", "Remember that I like tea", {"text": "I like tea"}),
        ("anything", "hello", None),
    ],
)
def test_the_other_tools(tool: str, message: str, expected: Any) -> None:
    assert plain_arguments(tool, message) == expected
