"""Instruction sets that tests of the kernels run over, and builds of changed copies of the native code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llms.decoders.cpu import native
from llms.decoders.cpu.native import SETS, load, supported_platform

ROOT = Path(__file__).parent.parent
COMPILER = next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)

AVAILABLE = [one.name for one in SETS if not isinstance(load(one.name), str)]

needs_kernels = pytest.mark.skipif(not AVAILABLE, reason=f"no kernels here: {native.missing()}")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or not supported_platform(), reason="no C++ compiler, or not Linux on x86-64"
)


def every_set(argument: str = "instructions") -> pytest.MarkDecorator:
    """Run a test for every instruction set; sets that this CPU or installation lacks are skipped by name."""
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(
                one.name,
                marks=pytest.mark.skipif(one.name not in AVAILABLE, reason=f"{one.name}: {load(one.name)}"),
            )
            for one in SETS
        ],
    )


def copy_of_the_sources(folder: Path, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Copy the sources of the native code with some texts replaced. Only AVX2 is built, and unoptimized."""
    cpu = folder / "llms" / "decoders" / "cpu"
    cpu.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for path in (ROOT / "llms" / "decoders" / "cpu").iterdir():
        if path.suffix in (".cpp", ".h", ".py"):
            shutil.copy(path, cpu / path.name)
    only_avx2 = {"native.py": ("\n\nclass MatrixStruct", "\nSETS = SETS[-1:]\n\n\nclass MatrixStruct")}
    for name, (old, new) in (only_avx2 | dict(changes or {})).items():
        text = (cpu / name).read_text()
        assert old in text, f"{name} has changed: {old!r} is not in it"
        (cpu / name).write_text(text.replace(old, new))
    setup = folder / "setup.py"
    setup.write_text(setup.read_text().replace('"-O3"', '"-O1"'))
    return folder


def build(folder: Path, **environment: str) -> tuple[list[Path], str]:
    """Build the native code of a copy in place; return the object files, and the output of the build."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return sorted((folder / "llms" / "decoders" / "cpu").glob("*.so")), done.stdout + done.stderr
