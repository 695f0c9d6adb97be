"""`lean_kernels.cpp` -> machine code for this CPU, made once by the machine's own g++ and kept in the cache.

Knows a compiler, its options and a folder. Refuses to know what the code computes. Without a compiler, on a
CPU without the instructions, or where compiling fails, there is no code, and the lean decoder runs on
PyTorch's operators. What failed is not tried again before source, compiler or CPU change.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from llms.catalog import cache_dir

SOURCE = Path(__file__).with_name("lean_kernels.cpp")
HEADER = SOURCE.with_name("lean_product.h")

NEEDS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_bf16"})
"""What the CPU must offer, in Linux's names: AMD from Zen 4 on, Intel's servers from Cooper Lake on."""

OPTIONS = (
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
)
"""NaN and infinity keep their meaning: a damaged weight must show in the logits."""

COMPILE_TIMEOUT_S = 120
"""Measured: 1.5 s of CPU."""


@cache
def code(folder: Path | None = None) -> ctypes.CDLL | None:
    """Return the compiled code, from the folder where it lies there; None where it cannot be had.

    Args:
        folder: Where compiled code is kept; None: `kernels` in the user's cache.
    """
    compiler = shutil.which("g++")
    if compiler is None or why_not():
        return None
    folder, facts = folder or cache_dir() / "kernels", os.stat(compiler)
    made_of = (
        SOURCE.read_text(),
        HEADER.read_text(),
        OPTIONS,
        compiler,
        facts.st_mtime_ns,
        facts.st_size,
        sorted(_cpu()),
    )
    path = folder / f"lean-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.so"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    return None


def why_not() -> str | None:
    """Return in a few words why there can be no code here; None where there can. It loads no torch."""
    if missing := NEEDS - _cpu():
        return f"a CPU without {min(missing)}"
    return None if shutil.which("g++") else "no g++ on the path"


def _compile(compiler: str, path: Path) -> None:
    """Write the code, or an empty file where that fails; whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        made = Path(part, path.name)
        done = subprocess.run(
            [compiler, *OPTIONS, "-o", str(made), str(SOURCE)],
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
        )
        if done.returncode:
            made.write_bytes(b"")
        made.replace(path)


def _cpu() -> frozenset[str]:
    """Return what the CPU offers, in Linux's names; nothing elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
