"""Where machine code comes from and where it does not: CPUs, compilers, the cache, and what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lean_models import Q4, model_of
from lean_sets import AVAILABLE, every_set, needs_code

from llms.lean import compiler as lean_compiler
from llms.lean.check import checked
from llms.lean.compiler import COMPILERS, SETS, code, sets, why_not
from llms.lean.decoder import LeanDecoder
from llms.models.catalog import cache_dir

BY_NAME = {one.name: one for one in SETS}
AVX2 = BY_NAME["AVX2"]

TINY = 'extern "C" int lean_pass() { return 7; }'
"""A source that compiles at once."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Leave no other folder's code behind."""
    yield
    code.cache_clear()
    checked.cache_clear()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source of the test's own, in place of the kernels."""
    path = tmp_path / "source.cpp"
    path.write_text(TINY)
    monkeypatch.setattr(lean_compiler, "SOURCE", path)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was started, command by command."""
    found: list[Any] = []
    start = subprocess.Popen
    monkeypatch.setattr(
        "subprocess.Popen", lambda command, **how: found.append(command) or start(command, **how)
    )
    return found


def again(folder: Path, instructions: Any = AVX2) -> Any:
    """Ask as the next process would."""
    code.cache_clear()
    return code(instructions, folder)


def test_the_best_set_that_the_cpu_has_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = frozenset().union(*(one.needs for one in SETS))
    for lacks, names in (
        (frozenset(), ["AVX512-BF16", "AVX512-VNNI", "AVX2"]),
        ({"avx512_bf16"}, ["AVX512-VNNI", "AVX2"]),
        ({"avx512_vnni"}, ["AVX2"]),
        ({"avx512f"}, ["AVX2"]),
        ({"fma"}, []),
        ({"f16c"}, []),
    ):
        monkeypatch.setattr(lean_compiler, "_cpu", lambda lacks=lacks: everything - lacks)
        assert [one.name for one in sets()] == names


def test_without_compiler_or_instructions_there_is_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_compiler, "_cpu", lambda: AVX2.needs)
    for name, value, reason in (
        ("shutil.which", lambda _: None, "no C++ compiler on the path (g++, c++, clang++)"),
        ("_cpu", lambda: AVX2.needs - {"f16c"}, "a CPU without f16c"),
        ("_cpu", frozenset, "a CPU without avx2"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"llms.lean.compiler.{name}", value)
            checked.cache_clear()
            assert why_not() == reason
            described = LeanDecoder(model_of(Q4)).describe()
            assert described == f"lean (own forward pass, 4-bit weights; no machine code: {reason}) on cpu"
    assert not list(tmp_path.iterdir())


@needs_code
def test_a_set_that_is_asked_for_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AVAILABLE:
        assert f"machine code for {name}," in LeanDecoder(model_of(Q4), instructions=name).describe()
    monkeypatch.setattr(lean_compiler, "_cpu", lambda: AVX2.needs)
    checked.cache_clear()
    assert "machine code for AVX2," in LeanDecoder(model_of(Q4)).describe()
    assert "; no machine code: a CPU without AVX512-BF16)" in (
        LeanDecoder(model_of(Q4), instructions="AVX512-BF16").describe()
    )


def test_a_set_that_nobody_knows_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"AVX512-BF16, AVX512-VNNI, AVX2, or None; found 'avx2'"):
        LeanDecoder(model_of(Q4), instructions="avx2")


@pytest.mark.parametrize("name", COMPILERS)
def test_any_compiler_on_the_path_is_taken(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    real = next((path for one in COMPILERS if (path := shutil.which(one))), None)
    if real is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "bin").mkdir()
    Path(tmp_path, "bin", name).symlink_to(real)
    monkeypatch.setattr(lean_compiler, "_cpu", lambda: AVX2.needs)
    monkeypatch.setattr(
        shutil, "which", lambda one: path if (path := f"{tmp_path}/bin/{one}").endswith(f"/{name}") else None
    )
    assert why_not() is None
    found = again(tmp_path / "kernels")
    assert found is not None and found.lean_pass() == 7
    assert [command[0] for command in calls] == [f"{tmp_path}/bin/{name}"]


@needs_code
def test_code_is_compiled_once_and_a_failure_is_not_repeated(
    source: Path, tmp_path: Path, calls: list[Any]
) -> None:
    source.write_text("int main( {")
    for _ in range(2):
        assert again(tmp_path / "kernels") is None
    assert len(calls) == 1
    source.write_text(TINY)
    for _ in range(2):
        found = again(tmp_path / "kernels")
        assert found is not None and found.lean_pass() == 7
    assert len(calls) == 2 and len(list((tmp_path / "kernels").iterdir())) == 2


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(lean_compiler, "_compiler", lambda: str(path))
    monkeypatch.setattr(lean_compiler, "_cpu", lambda: AVX2.needs)


def test_a_compiler_that_hangs_is_stopped_with_all_it_started_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    """The driver is not who hangs: a child of it does, which would live on and hold what it inherited."""
    fake_compiler(tmp_path, monkeypatch, f"sleep 300 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(lean_compiler, "COMPILE_TIMEOUT_S", 1.0)
    for _ in range(2):
        assert again(tmp_path / "kernels") is None
    assert len(calls) == 1
    child = int((tmp_path / "child").read_text())
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
    checked.cache_clear()
    monkeypatch.setattr("llms.lean.check.code", lambda instructions: code(instructions, tmp_path / "kernels"))
    assert "no machine code: the compiler failed" in LeanDecoder(model_of(Q4)).describe()


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "exit 0", "echo noise; echo more >&2; exit 3"])
def test_a_compiler_that_fails_leaves_the_operators(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path, monkeypatch, script)
    assert again(tmp_path / "kernels") is None
    assert not [path for path in (tmp_path / "kernels").iterdir() if path.is_dir()]


def test_a_compiler_that_writes_no_code_leaves_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = 'while [ "$1" != -o ]; do shift; done; echo noise > "$2"'
    fake_compiler(tmp_path, monkeypatch, noise)
    assert again(tmp_path / "kernels") is None


def test_a_folder_that_cannot_be_written_leaves_the_operators(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert again(tmp_path / "file" / "kernels") is None


@needs_code
def test_a_folder_that_cannot_be_written_gives_the_code_it_holds(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    assert again(tmp_path / "kernels") is not None

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("os.mkdir", refuse)
    assert again(tmp_path / "kernels") is not None and len(calls) == 1
    source.write_text(TINY + "\n")
    assert again(tmp_path / "kernels") is None


@needs_code
@pytest.mark.parametrize("harm", ["cut", "empty", "noise", "one byte"])
def test_a_damaged_file_is_made_anew(harm: str, source: Path, tmp_path: Path, calls: list[Any]) -> None:
    assert again(tmp_path / "kernels") is not None
    (file,) = (tmp_path / "kernels").iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    other = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.unlink()  # this process has the old one mapped
    file.write_bytes({"cut": whole[:-5000], "empty": b"", "noise": b"\x07" * 9999, "one byte": other}[harm])
    found = again(tmp_path / "kernels")
    assert found is not None and found.lean_pass() == 7 and len(calls) == 2


@needs_code
def test_two_processes_that_compile_at_once_both_have_the_code(tmp_path: Path) -> None:
    (tmp_path / "source.cpp").write_text(TINY)
    script = (
        "import sys; from pathlib import Path; from llms.lean import compiler as it;"
        "it.SOURCE = Path(sys.argv[2]);"
        "sys.stdin.readline(); print(it.code(it.SETS[-1], Path(sys.argv[1])).lean_pass())"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "kernels", tmp_path / "source.cpp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(lean_compiler.__file__).parents[1])},
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=100)[0] for process in both] == ["7\n", "7\n"]
    assert len(list((tmp_path / "kernels").iterdir())) == 1


@every_set()
def test_a_set_s_code_holds_no_instruction_beyond_it(instructions: str) -> None:
    """What was made here runs wherever the set is: neither this CPU nor the compiler's defaults add any."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump (binutils)")
    one, compiler = BY_NAME[instructions], lean_compiler._compiler()
    assert code(one) is not None and compiler is not None
    file = cache_dir() / "kernels" / lean_compiler._name(one, compiler)
    assert file.name.startswith(f"lean-{instructions.lower()}-")
    text = subprocess.run(["objdump", "-d", str(file)], capture_output=True, text=True, check=True).stdout
    assert ("zmm" in text) == instructions.startswith("AVX512") and "ymm" in text
    assert ("vdpbf16ps" in text) == (instructions == "AVX512-BF16")
    assert ("vpdpwssd" in text) == instructions.startswith("AVX512")
    if instructions == "AVX2":
        assert "%k1" not in text and "%ymm16" not in text


@needs_code
def test_a_cache_that_moved_to_a_lesser_cpu_is_passed_over(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    monkeypatch.setattr("llms.lean.check.code", lambda one: code(one, tmp_path / "kernels"))
    monkeypatch.setattr("llms.lean.check.computes", lambda run: run() == 7)
    for one in SETS:
        monkeypatch.setattr(lean_compiler, "_cpu", lambda one=one: one.needs)
        checked.cache_clear()
        code.cache_clear()
        found = checked()
        assert not isinstance(found, str) and found[0] is one
    made = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "kernels").iterdir())
    assert made == sorted(f"lean-{one.name.lower()}" for one in SETS) and len(calls) == 3
