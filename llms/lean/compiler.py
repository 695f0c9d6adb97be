"""`kernels.cpp` -> machine code for this CPU, made once by the machine's compiler and kept in the cache.

Knows instruction sets, a compiler, its options and a folder. Refuses to know what the code computes (see
`llms.lean.check`) and to import torch. Without a compiler, on a CPU without the instructions, or where
compiling fails, there is no code, and the lean decoder runs on PyTorch's operators. What failed is not tried
again before source or compiler change.

A set is chosen by what the CPU says and named in the file's name; the compiler is told that set and nothing
of the CPU it runs on. So a cache that moves to another machine holds nothing that machine would choose and
could not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llms.models.catalog import cache_dir

SOURCE = Path(__file__).with_name("kernels.cpp")

COMPILERS = ("g++", "c++", "clang++")
"""Names of a C++ compiler; the first on the path is taken."""

OPTIONS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
)
"""NaN and infinity keep their meaning: a damaged weight must show in the logits."""

COMPILE_TIMEOUT_S = 120.0
"""Measured: 2 to 3 s of CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionSet:
    """Instructions that come together, and the header that holds the products made of them.

    Attributes:
        name: What people call it.
        needs: What the CPU must offer, in Linux's names.
        header: The file beside `product.h` that it includes.
    """

    name: str
    needs: frozenset[str]
    header: str

    @property
    def options(self) -> tuple[str, ...]:
        """Return what the compiler is told."""
        allowed = (f"-m{name.replace('_', '')}" for name in sorted(self.needs))
        return (*allowed, f'-DINSTRUCTIONS="{self.header}"')


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_VNNI = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}

SETS = (
    InstructionSet(name="AVX512-BF16", needs=_VNNI | {"avx512_bf16"}, header="avx512.h"),
    InstructionSet(name="AVX512-VNNI", needs=_VNNI, header="avx512.h"),
    InstructionSet(name="AVX2", needs=_AVX2, header="avx2.h"),
)
"""Best first: AMD from Zen 4 on and Intel's servers from Cooper Lake on; Intel's servers from Cascade Lake on
and laptops of the 10th and 11th generation; Intel from Haswell (2013) and AMD from Zen (2017) on."""


def sets() -> tuple[InstructionSet, ...]:
    """Return the sets that this CPU has, best first."""
    return tuple(one for one in SETS if one.needs <= _cpu())


def why_not() -> str | None:
    """Return in a few words why there can be no code here; None where there can. It loads no torch."""
    if not sets():
        return f"a CPU without {min(SETS[-1].needs - _cpu())}"
    return None if _compiler() else f"no C++ compiler on the path ({', '.join(COMPILERS)})"


@cache
def code(instructions: InstructionSet, folder: Path | None = None) -> ctypes.CDLL | None:
    """Return the compiled code, from the folder where it lies there; None where it cannot be had.

    Args:
        instructions: One of `sets()`.
        folder: Where compiled code is kept; None: `kernels` in the user's cache.
    """
    if (compiler := _compiler()) is None:
        return None
    path = (folder or cache_dir() / "kernels") / _name(instructions, compiler)
    with contextlib.suppress(OSError):
        if not _whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, instructions, path)
        return ctypes.CDLL(str(path)) if path.stat().st_size > _SEAL else None
    return None


_SEAL = hashlib.sha256().digest_size
"""Bytes of the hash at a file's end, behind what the loader reads: half a file would kill the process."""


def _whole(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        return hashlib.sha256(content[:-_SEAL]).digest() == content[-_SEAL:]
    return False


def _compile(compiler: str, instructions: InstructionSet, path: Path) -> None:
    """Write the code and its hash, or the hash of nothing where that fails; whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        made = Path(part, path.name)
        command = [compiler, *OPTIONS, *instructions.options, "-o", str(made), str(SOURCE)]
        if not _succeeds(command):
            made.write_bytes(b"")
        with made.open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)


def _succeeds(command: list[str]) -> bool:
    """Run a compiler, for a limited time: it and all that it started."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True) as run:
        try:
            return run.wait(COMPILE_TIMEOUT_S) == 0
        except BaseException as error:  # Ctrl-C does not reach another session
            os.killpg(run.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    return False


def _name(instructions: InstructionSet, compiler: str) -> str:
    facts = os.stat(compiler)
    sources = [path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    made_of = (sources, OPTIONS, instructions.options, compiler, facts.st_mtime_ns, facts.st_size)
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
    return f"lean-{instructions.name.lower()}-{key}.so"


def _compiler() -> str | None:
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def _cpu() -> frozenset[str]:
    """Return what the CPU offers, in Linux's names; nothing elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
