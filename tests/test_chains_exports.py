"""Packages that resolve their names lazily: the names are sorted and complete, and torch is not imported."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import chains
import tools


@pytest.mark.parametrize("package", [chains, tools], ids=["chains", "tools"])
def test_all_is_sorted_and_covers_the_table(package: ModuleType) -> None:
    names = package.__all__
    stub = Path(str(package.__file__)).with_suffix(".pyi").read_text(encoding="utf-8")
    assert names == sorted(names) == sorted(re.findall(r"^from \S+ import (\w+) as \1$", stub, re.MULTILINE))
    assert dir(package) == names


def test_every_name_that_chains_exports_resolves() -> None:
    for name in chains.__all__:
        assert getattr(chains, name).__name__ == name


def test_every_name_that_tools_exports_resolves() -> None:
    for name in tools.__all__:
        assert getattr(tools, name).__name__ == name


@pytest.mark.parametrize("package", [chains, tools], ids=["chains", "tools"])
def test_an_unknown_name_says_what_there_is(package: ModuleType) -> None:
    name = package.__all__[-1]
    code = f"import {package.__name__} as package; package.{name}x"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = f"AttributeError: No {package.__name__} attribute {name}x. Did you mean: '{name}'?"
    assert done.stderr.endswith(f"{expected}\n")


@pytest.mark.parametrize("module", ["chains", "tools", "chains.rag", "chains.errors", "tools.errors"])
def test_importing_brings_in_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module(module).__doc__
