"""Packages whose names are resolved lazily: sorted, complete, and free of torch."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import chains
import tools


@pytest.mark.parametrize("package", [chains, tools], ids=["chains", "tools"])
def test_all_is_sorted_and_covers_the_table(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names) == sorted(package._HOME)  # type: ignore[attr-defined]
    assert dir(package) == names


def test_every_name_that_chains_exports_resolves() -> None:
    for name in chains.__all__:
        assert getattr(chains, name).__name__ == name


def test_every_name_that_tools_exports_resolves() -> None:
    for name in tools.__all__:
        assert getattr(tools, name).__name__ == name


@pytest.mark.parametrize("package", [chains, tools], ids=["chains", "tools"])
def test_an_unknown_name_says_what_there_is(package: object) -> None:
    with pytest.raises(AttributeError, match="it exports"):
        package.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("module", ["chains", "tools", "chains.rag", "chains.errors", "tools.errors"])
def test_importing_brings_in_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module(module).__doc__
