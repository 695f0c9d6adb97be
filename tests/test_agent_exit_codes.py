"""Exit codes: one for each class, all of them listed, and none for a class that does not exist."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from agent import errors as exit_codes
from agent.cli.main import help_text

RANGES = {
    "llms.errors": range(10, 30),
    "chains.retrieval.errors": (*range(30, 50), *range(80, 90)),  # the first range is full
    "chains.errors": range(50, 60),
    "sandbox.errors": range(60, 70),
    "agent.errors": range(70, 80),
    "tools.errors": range(70, 80),
}


def test_codes_are_unique_and_in_their_rooms_range() -> None:
    codes = [entry.code for entry in (*exit_codes.OUTCOMES, *exit_codes.ERRORS)]
    assert len(codes) == len(set(codes))
    for entry in exit_codes.ERRORS:
        assert entry.code in RANGES[entry.error.split(":")[0]], entry


def test_codes_are_listed_in_the_help() -> None:
    text = help_text()
    for entry in (*exit_codes.OUTCOMES, *exit_codes.ERRORS):
        assert any(
            line.split() and line.split()[0] == str(entry.code) and entry.meaning in line
            for line in text.splitlines()
        )


@pytest.mark.parametrize("module", sorted(RANGES))
def test_every_leaf_class_of_a_room_has_its_own_code(module: str) -> None:
    room = import_module(module)
    classes = [
        c
        for _, c in inspect.getmembers(room, inspect.isclass)
        if c.__module__ == module and issubclass(c, Exception)
    ]
    leaves = [c for c in classes if not any(c in other.__mro__[1:] for other in classes)]
    listed = {entry.error for entry in exit_codes.ERRORS}
    assert [c.__name__ for c in leaves if f"{module}:{c.__name__}" not in listed] == []
    assert {name for name in listed if name.startswith(f"{module}:")} <= {
        f"{module}:{c.__name__}" for c in classes
    }


def test_an_unlisted_subclass_gets_its_ancestors_code_and_a_stranger_is_internal() -> None:
    from agent.errors import ConfigError

    class Special(ConfigError):
        pass

    assert exit_codes.exit_code(Special()) == exit_codes.exit_code(ConfigError()) == 71
    assert exit_codes.exit_code(ZeroDivisionError()) == exit_codes.INTERNAL
    assert exit_codes.is_known(Special()) and not exit_codes.is_known(KeyError())
