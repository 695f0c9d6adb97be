"""Native code is compiled and tested when the package is installed, and optional in every way it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from cpu_sets import AVAILABLE, build, copy_of_the_sources, needs_compiler

AVX2 = "kernels-avx2.so"


@needs_compiler
def test_the_code_is_built_beside_its_source_and_again_when_that_changes(tmp_path: Path) -> None:
    folder = copy_of_the_sources(tmp_path)
    (made,), _ = build(folder)
    assert made == tmp_path / "llms" / "decoders" / "cpu" / AVX2
    first = made.stat().st_mtime_ns
    build(folder)
    assert made.stat().st_mtime_ns == first
    header = made.with_name("thread_pool.h")
    header.write_text(f"{header.read_text()}\n// changed\n")
    build(folder)
    assert made.stat().st_mtime_ns > first


WRONG = {
    "one number of rows": (
        "matmul.h",
        "store(out + t * stride, total[t])",
        "store(out + t * stride, T == MAX_ROWS - 1 && t == T - 1 ? broadcast(0) : total[t])",
    ),
    "offsets of 4 bits": ("matmul.h", "sums[at] = scales[at] * float(total)", "sums[at] = 0"),
    "signs of 8 bits": ("avx2.h", "_mm256_cvtepi8_epi16", "_mm256_cvtepu8_epi16"),
    "odd columns of 16 bits": ("widened.h", "fma(x.odd, weights.odd,", "fma(x.even, weights.odd,"),
    "heads of 96": ("kernels.cpp", "case 3: score<3>", "case 3: score<2>"),
    "what is divided by": ("kernels.cpp", "divide(sum[w], broadcast(total))", "sum[w]"),
    "a crash": ("kernels.cpp", "forward(*model, *batch);", "__builtin_trap();"),
}

SAMPLE = ("one number of rows", "odd columns of 16 bits")
"""Of the things that go wrong, what the fast suite compiles: 2 s of CPU each."""


@needs_compiler
@pytest.mark.skipif("AVX2" not in AVAILABLE, reason="this CPU cannot run the self-test")
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in SAMPLE else pytest.mark.slow) for what in WRONG]
)
def test_code_that_computes_something_else_is_not_used(what: str, tmp_path: Path) -> None:
    """A source with one error stands for a compiler that miscompiles it."""
    file, right, wrong = WRONG[what]
    made, said = build(copy_of_the_sources(tmp_path, {file: (right, wrong)}))
    assert not made
    assert f"{AVX2} computes wrongly" in said


def fake_compiler(folder: Path, script: str) -> dict[str, str]:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"CC": str(path), "CXX": str(path)}


@needs_compiler
@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "exit 0", "echo noise; echo more >&2; exit 3"])
def test_a_compiler_that_fails_leaves_a_package_without_native_code(script: str, tmp_path: Path) -> None:
    made, said = build(copy_of_the_sources(tmp_path / "copy"), **fake_compiler(tmp_path, script))
    assert not made
    assert "kernels-avx2" in said and "failed" in said


@needs_compiler
def test_a_compiler_that_writes_no_code_leaves_a_package_without_it(tmp_path: Path) -> None:
    noise = 'while [ "$1" != -o ]; do shift; done; echo noise > "$2"'
    made, said = build(copy_of_the_sources(tmp_path / "copy"), **fake_compiler(tmp_path, noise))
    assert not made and "computes wrongly" in said


@needs_compiler
def test_code_that_no_longer_compiles_leaves_none_of_the_old(tmp_path: Path) -> None:
    folder = copy_of_the_sources(tmp_path / "copy")
    assert build(folder)[0]
    (folder / "llms" / "decoders" / "cpu" / "kernels.cpp").write_text("int main( {")
    assert build(folder)[0] == []


def test_other_platforms_skip_it_in_one_line(tmp_path: Path) -> None:
    platform = {"_PYTHON_HOST_PLATFORM": "macosx-14.0-arm64"}
    made, said = build(copy_of_the_sources(tmp_path), **platform)
    assert not made
    (line,) = [line for line in said.splitlines() if "native code" in line]
    assert line == "no native code for macosx-14.0-arm64: it is written for linux-x86_64"
