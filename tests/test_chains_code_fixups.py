"""Imports that the model forgot are added if they are certain, and nothing else is changed."""

from __future__ import annotations

import pytest

from chains.code.fixups import with_missing_imports


def test_a_forgotten_module_is_imported_and_the_code_runs() -> None:
    code = "def draw():\n    return [random.randint(1, 10000) for _ in range(1000)]\n"
    fixed = with_missing_imports(code)
    assert fixed.startswith("import random\n")
    assert fixed.endswith(code)
    space: dict[str, object] = {}
    exec(fixed, space)
    assert len(space["draw"]()) == 1000  # type: ignore[operator]


def test_names_of_typing_in_annotations() -> None:
    fixed = with_missing_imports("def f(x: List[int]) -> Optional[int]:\n    return x[0]\n")
    assert fixed.splitlines()[0] == "from typing import List, Optional"


def test_docstring_and_future_imports_stay_first() -> None:
    code = '"""Text."""\nfrom __future__ import annotations\nx = math.pi\n'
    assert with_missing_imports(code).splitlines() == [
        '"""Text."""',
        "from __future__ import annotations",
        "import math",
        "x = math.pi",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import random\nx = random.random()\n",
        "import random as r\nrandom = r\nx = random.random()\n",
        "def f(random):\n    return random.choice()\n",
        "from os import path\nx = path.join('a')\n",
        "import os.path\nx = os.path.join('a')\n",
        "for time in [1]:\n    time.real\n",
        "x = numpy.zeros(3)\n",
        "x = string\n",
    ],
)
def test_what_is_bound_unknown_or_uncertain_is_left_alone(code: str) -> None:
    assert with_missing_imports(code) == code
