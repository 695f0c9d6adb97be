"""The kernels' threads, and what happens in them when memory runs out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cpu_sets import COMPILER, every_set, needs_compiler, needs_kernels

from llms.decoders.cpu.native import FOLDER, SETS

TESTS = Path(__file__).parent

AVX2 = (*(option for option in SETS[-1].options if option.startswith("-m")), '-DINSTRUCTIONS="avx2.h"')


def compiled(program: str, folder: Path, *options: str) -> Path:
    """Compile a C++ test against the sources of the kernels."""
    made = folder / program
    command = [str(COMPILER), "-O1", "-std=c++17", "-pthread", *options, "-I", str(FOLDER)]
    subprocess.run([*command, "-o", str(made), str(TESTS / f"{program}.cpp")], check=True)
    return made


def run(program: Path) -> str:
    return subprocess.run([str(program)], capture_output=True, text=True, check=True, timeout=120).stdout


@needs_compiler
def test_loops_end_whole_for_any_size_for_callers_at_once_and_in_a_forked_child(tmp_path: Path) -> None:
    assert run(compiled("cpu_thread_pool", tmp_path, "-mavx2")) == "right\n"


@needs_compiler
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="a CPU without AVX2")
def test_callers_at_once_that_fork_slots_get_the_logits_of_a_single_one(tmp_path: Path) -> None:
    assert run(compiled("cpu_callers", tmp_path, *AVX2)) == "right\n"


@needs_compiler
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="a CPU without AVX2")
def test_every_allocation_of_a_pass_may_fail(tmp_path: Path) -> None:
    """`operator new` fails at the first allocation, then at the second, and so on until a pass succeeds.

    Each failure is an error code, the process lives, and the next pass gives the same logits.
    """
    assert run(compiled("cpu_out_of_memory", tmp_path, *AVX2)) == "right\n"


SANITIZERS = {
    "races": ("-fsanitize=thread", {"TSAN_OPTIONS": "die_after_fork=0"}),
    "memory": ("-fsanitize=address,undefined", {"ASAN_OPTIONS": "detect_leaks=0"}),
}


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="a CPU without AVX2")
@pytest.mark.parametrize("program", ["cpu_thread_pool", "cpu_out_of_memory", "cpu_callers"])
@pytest.mark.parametrize("what", SANITIZERS)
def test_sanitizers_find_nothing(what: str, program: str, tmp_path: Path) -> None:
    """Decode, prefill, forks, several callers, tasks that throw, failed allocations, a forked child."""
    option, environment = SANITIZERS[what]
    made = compiled(program, tmp_path, *AVX2, "-g", option, "-fno-sanitize-recover=all")
    done = subprocess.run([made], capture_output=True, text=True, timeout=170, env=os.environ | environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


OUT_OF_MEMORY = """
import resource, sys, torch
from cpu_models import Q4, model_of
from llms.decoders.cpu.decoder import CpuDecoder
from llms.models.weights import weights_of
torch.set_num_threads(int(sys.argv[1]))
model = model_of(Q4, intermediate_size=4096, max_position_embeddings=4096)
decoder = CpuDecoder(weights_of(model), max_slots=2)
decoder.prefill(1, [1, 2, 3])
ids = [(7 * i) % 250 for i in range(1000)]
decoder.step([0], [ids[:1]])
decoder._store.reserve(0, 1000)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**20, -1))
try:
    decoder.prefill(0, ids)
except MemoryError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert decoder.length(0) == 1 and decoder.length(1) == 3
found = decoder.prefill(0, ids)
decoder.free(1)
decoder.prefill(1, ids[:1])
print(torch.equal(decoder.prefill(1, ids), found))
"""


@needs_kernels
@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_pass_without_memory_raises_memory_error_and_changes_nothing(threads: str) -> None:
    """A limit on the address space stands for a full machine: 1 MiB is left for buffers of 40 MiB."""
    command = [sys.executable, "-c", OUT_OF_MEMORY, threads]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "MemoryError no memory for a pass of 1000 tokens\nTrue\n"


@every_set()
def test_the_code_needs_no_openmp(instructions: str) -> None:
    found = next(one for one in SETS if one.name == instructions)
    assert b"libgomp" not in (FOLDER / found.object).read_bytes()
