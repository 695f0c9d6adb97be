"""The kernels that a CPU and an installation have, and the messages if there are none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cpu_models import Q4, model_of, self_test_logits
from cpu_sets import AVAILABLE, COMPILER, every_set, needs_kernels
from tiny_models import tiny_checkpoint, tiny_tokenizer

from llms.decoders.cpu import native
from llms.decoders.cpu.decoder import CpuDecoder, unsupported
from llms.decoders.cpu.native import EXPECTED, FOLDER, SETS, STEPS, MadeUpLayer, load, self_test
from llms.decoders.reference import ReferenceDecoder
from llms.errors import UnsupportedModel
from llms.models.diagnosis import judge
from llms.models.load import LoadSettings, adopt, make_decoder
from llms.models.load import load as load_model
from llms.models.weights import weights_of

AVX2 = SETS[-1]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Unload the objects of other folders after each test."""
    yield
    native._opened.cache_clear()


@pytest.fixture
def without_native_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation on this CPU whose native code could not be compiled."""
    monkeypatch.setattr(native, "cpu_flags", lambda: AVX2.needs)
    monkeypatch.setattr(native, "supported_platform", lambda: True)
    monkeypatch.setattr(native.load, "__defaults__", (None, tmp_path))


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
        monkeypatch.setattr(native, "cpu_flags", lambda lacks=lacks: everything - lacks)
        assert [one.name for one in native.supported_sets()] == names


@pytest.mark.skipif(COMPILER is None or not native.supported_sets(), reason="no compiler, or no such CPU")
def test_an_installation_with_a_compiler_has_native_code() -> None:
    assert native.missing() is None, "run `make dev`, which compiles the native code"


def test_without_compiler_or_instructions_there_is_no_code(
    without_native_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(Q4)
    for name, value, reason in (
        ("cpu_flags", lambda: AVX2.needs, "the package was installed without its native code"),
        ("cpu_flags", lambda: AVX2.needs - {"f16c"}, "a CPU without f16c"),
        ("cpu_flags", frozenset, "a CPU without avx2"),
        ("supported_platform", lambda: False, f"Linux on x86-64 and 64-bit ARM, this is {sys.platform}"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(native, name, value)
            assert reason in str(native.missing()) and reason in str(unsupported(weights_of(model)))
            made = make_decoder(adopt(model, tiny_tokenizer()), max_slots=2)
            assert type(made) is ReferenceDecoder and reason in made.describe()
            assert bool(native.notice()) == ("native code" in reason)
            with pytest.raises(UnsupportedModel, match="CPU decoder serves, found"):
                CpuDecoder(weights_of(model))


def test_one_line_says_what_is_missing_and_how_to_get_it(without_native_code: None, tmp_path: Path) -> None:
    """The message speaks of the library: the fix is a step, not an option of the command line."""
    said: list[str] = []
    spec = LoadSettings(
        model=str(tiny_checkpoint(tmp_path / "m", head_dim=32)), device="cpu", notify=said.append
    )
    loaded = load_model(spec)
    (line,) = said
    assert "install a C++ compiler (g++ or clang++), then install the package again" in line
    assert "\n" not in line and "--" not in line and loaded.notice == line
    assert isinstance(make_decoder(loaded), ReferenceDecoder)
    decoder = list(judge(spec))[1]
    assert decoder.name == "decoder" and decoder.state == "missing" and "C++ compiler" in decoder.fix


def test_nothing_is_said_of_native_code_that_would_not_serve(
    without_native_code: None, tmp_path: Path
) -> None:
    said: list[str] = []
    folder = tiny_checkpoint(tmp_path / "m", head_dim=32)
    load_model(LoadSettings(model=str(folder), device="cpu", dtype="float32", notify=said.append))
    load_model(LoadSettings(model=str(folder), device="cpu", decoder="reference", notify=said.append))
    assert said == []


@needs_kernels
def test_a_set_that_is_asked_for_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AVAILABLE:
        assert (
            f"native code for {name}," in CpuDecoder(weights_of(model_of(Q4)), instructions=name).describe()
        )
    monkeypatch.setattr(native, "cpu_flags", lambda: AVX2.needs)
    assert "native code for AVX2," in CpuDecoder(weights_of(model_of(Q4))).describe()
    with pytest.raises(UnsupportedModel, match="a CPU without AVX512-BF16"):
        CpuDecoder(weights_of(model_of(Q4)), instructions="AVX512-BF16")


def test_a_set_that_nobody_knows_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"AVX512-BF16, AVX512-VNNI, AVX2, or None; found 'avx2'"):
        CpuDecoder(weights_of(model_of(Q4)), instructions="avx2")


@needs_kernels
@pytest.mark.parametrize("harm", ["empty", "noise", "missing", "another interface"])
def test_a_damaged_object_is_passed_over(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, *others = (one for one in SETS if one.name in AVAILABLE)
    for one in others:
        shutil.copy(FOLDER / one.object, tmp_path / one.object)
    if harm == "another interface":
        shutil.copy(FOLDER / best.object, tmp_path / best.object)
        monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
        assert load(folder=tmp_path) == "the package was installed without its native code"
        return
    if harm != "missing":
        (tmp_path / best.object).write_bytes({"empty": b"", "noise": b"\x07" * 9999}[harm])
    found = load(folder=tmp_path)
    if others:
        assert not isinstance(found, str) and found.instructions is others[0]
    else:
        assert found == "the package was installed without its native code"


@every_set()
def test_a_set_s_code_holds_no_instruction_beyond_it(instructions: str) -> None:
    """An object runs on every CPU with its instruction set; the build adds no other instructions."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump (binutils)")
    one = next(one for one in SETS if one.name == instructions)
    file = FOLDER / one.object
    text = subprocess.run(["objdump", "-d", str(file)], capture_output=True, text=True, check=True).stdout
    assert ("zmm" in text) == instructions.startswith("AVX512") and "ymm" in text
    assert ("vdpbf16ps" in text) == (instructions == "AVX512-BF16")
    assert ("vpdpwssd" in text) == instructions.startswith("AVX512")
    if instructions == "AVX2":
        assert "%k1" not in text and "%ymm16" not in text


@every_set()
def test_an_object_needs_no_library_but_glibc(instructions: str) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("no objdump (binutils)")
    one = next(one for one in SETS if one.name == instructions)
    command = ["objdump", "-p", str(FOLDER / one.object)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = {line.split()[1] for line in text.splitlines() if line.strip().startswith("NEEDED")}
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}


@every_set()
def test_what_the_source_says_computes(instructions: str) -> None:
    kernels = load(instructions)
    assert not isinstance(kernels, str)
    assert self_test(kernels.forward) <= 0.01


def test_the_self_test_expects_what_pytorch_computes() -> None:
    for (bits, dim), expected in EXPECTED.items():
        exact = self_test_logits(MadeUpLayer(bits, dim), bits, dim)
        assert exact.shape[0] == sum(STEPS)
        torch.testing.assert_close(
            exact[-1, -len(expected) :], torch.tensor(expected).double(), atol=6e-4, rtol=0
        )
