"""No class name occurs twice, and no files of a package import each other in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from test_layout_imports import MODULES, ROOMS, imports_of

ROOT = Path(__file__).parent.parent


def test_no_class_name_stands_twice_in_the_tree() -> None:
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(f"{module}:{node.lineno}")
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(places)}" for name, places in sorted(twice.items()))


def _graph(room: str) -> dict[str, set[str]]:
    """Return the files of the package that each of its files imports, including imports inside functions."""
    files = {name for name in MODULES if name == room or name.startswith(f"{room}.")}
    return {
        module: {imported for imported, _ in imports_of(MODULES[module], module, for_types=True)}
        & files - {module}
        for module in files
        if MODULES[module].name != "__init__.py"
    }


@pytest.mark.parametrize("room", ROOMS)
def test_no_files_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    try:
        TopologicalSorter(_graph(room)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
