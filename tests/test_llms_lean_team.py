"""The threads of the lean decoder's machine code: every loop whole, whoever calls, in a forked child too."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lean_sets import needs_code

from llms.lean import compiler
from llms.lean.compiler import code, sets

PROGRAM = Path(__file__).with_name("lean_team.cpp")


@needs_code
def test_loops_end_whole_for_any_size_for_callers_at_once_and_in_a_forked_child(tmp_path: Path) -> None:
    made = tmp_path / "team"
    include = ("-I", str(compiler.SOURCE.parent))
    command = [
        str(compiler._compiler()),
        "-O2",
        "-std=c++17",
        "-pthread",
        *include,
        "-o",
        str(made),
        str(PROGRAM),
    ]
    subprocess.run(command, check=True)
    done = subprocess.run([str(made)], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "right\n"


@needs_code
def test_the_code_needs_no_openmp() -> None:
    found = code(sets()[0])
    assert found is not None
    assert b"libgomp" not in Path(found._name).read_bytes()
