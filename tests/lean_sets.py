"""Instruction sets that tests of the lean decoder's machine code run over: all that this machine can have."""

from __future__ import annotations

import pytest

from llms.lean.check import checked
from llms.lean.compiler import SETS, sets, why_not

AVAILABLE = [] if why_not() else [one.name for one in sets()]

needs_code = pytest.mark.skipif(not AVAILABLE, reason=f"no machine code here: {why_not()}")


def every_set(argument: str = "instructions") -> pytest.MarkDecorator:
    """Run a test for every set; those that this CPU lacks are skipped by name."""
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(
                one.name,
                marks=pytest.mark.skipif(
                    one.name not in AVAILABLE, reason=f"no {one.name}: {why_not() or 'not in this CPU'}"
                ),
            )
            for one in SETS
        ],
    )


def runs(instructions: str | None = None) -> bool:
    """Tell whether compiled code for a set is at hand here."""
    return not isinstance(checked(instructions), str)
