"""The GPU as this process sees it, and what is wrong where it cannot be used.

Knows torch's view of CUDA, nvidia-smi's, and bitsandbytes' library. Refuses to know models. `diagnose` serves
`agent doctor`; `free_bytes` and `usable` serve the choice of model. torch is imported on the first call.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from llms.quiet import quiet

ENOUGH_GB = 6.0
"""Mistral-7B in NF4: 4.14 GB of weights, 0.54 GB of KV cache for 4,096 tokens, workspace, CUDA context."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        name: What was looked at.
        ok: Whether it serves.
        detail: What was found.
        fix: The command or step that mends it; empty where nothing is wrong.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA GPU.

    Attributes:
        index: Its number in this process.
        name: Its product name.
        total: Its memory in bytes.
        free: What is free of it in bytes, now.
        bf16: Whether it computes in bfloat16.
    """

    index: int
    name: str
    total: int
    free: int
    bf16: bool


def gpus() -> list[Gpu]:
    """List the CUDA GPUs that torch can use; empty where it has none."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, _minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        found.append(Gpu(index=index, name=name, total=total, free=free, bf16=major >= 8))
    return found


def free_gpu_bytes() -> int:
    """Return the free memory of the emptiest NVIDIA GPU in bytes, 0 where there is none, without torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    query = [tool, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
        return max((int(line) for line in done.stdout.split()), default=0) * 2**20
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return 0


def why_none() -> str:
    """Say in a few words why torch has no GPU: the line beside a fallback to the CPU."""
    import torch

    driver = _driver()
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is the CPU build, but there is a GPU" if driver else "no NVIDIA GPU found"
    return "the NVIDIA driver does not answer torch" if driver else "no NVIDIA GPU or driver found"


def diagnose() -> list[Finding]:
    """Look at everything that a quantized model needs of a GPU, best first; no finding raises."""
    return [_check_driver(), _check_torch(), _check_memory(), _check_bitsandbytes(), _check_kernels()]


@cache
def _driver() -> str | None:
    # nvidia-smi answers without torch, so it tells a missing GPU from a torch without CUDA.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _check_driver() -> Finding:
    driver = _driver()
    if driver:
        return Finding(name="driver", ok=True, detail=driver)
    tool = shutil.which("nvidia-smi")
    found = "nvidia-smi does not answer" if tool else "no nvidia-smi: no NVIDIA GPU, or no driver"
    fix = "with an NVIDIA GPU, install its driver (Ubuntu: `sudo ubuntu-drivers install`) and restart"
    return Finding(name="driver", ok=False, detail=found, fix=fix)


def _check_torch() -> Finding:
    import torch

    version = torch.__version__
    if torch.cuda.is_available():
        return Finding(name="torch", ok=True, detail=f"{version}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        fix = "`pip install --force-reinstall torch==" + version.split("+")[0] + "` without a CPU index"
        if not _driver():
            fix = "nothing, unless this machine has an NVIDIA GPU; then " + fix
        return Finding(name="torch", ok=False, detail=f"{version} is a CPU build", fix=fix)
    detail = f"{version} was built for CUDA {torch.version.cuda}, and finds no usable GPU"
    fix = "update the NVIDIA driver to one that supports this CUDA version, and check CUDA_VISIBLE_DEVICES"
    return Finding(name="torch", ok=False, detail=detail, fix=fix)


def _check_memory() -> Finding:
    found = gpus()
    if not found:
        return Finding(name="gpu memory", ok=False, detail="no GPU in use", fix="see the lines above")
    best = max(found, key=lambda gpu: gpu.free)
    detail = f"{best.name}: {best.free / 1e9:.1f} of {best.total / 1e9:.1f} GB free"
    if best.free >= ENOUGH_GB * 1e9:
        return Finding(name="gpu memory", ok=True, detail=detail)
    fix = f"Mistral-7B in NF4 wants {ENOUGH_GB:g} GB: end other GPU programs (see `nvidia-smi`)"
    return Finding(name="gpu memory", ok=False, detail=detail, fix=fix)


def _check_bitsandbytes() -> Finding:
    name = "bitsandbytes"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, ok=False, detail="not installed", fix="`pip install 'bitsandbytes>=0.50'`")
    try:
        with quiet():
            from bitsandbytes.cextension import lib
    except Exception as error:  # a broken native library raises whatever its loader raises
        fix = "`pip install --force-reinstall bitsandbytes`"
        return Finding(name=name, ok=False, detail=f"{version} does not import: {error}", fix=fix)
    # Without its native library bitsandbytes imports all the same, with a stand-in that fails on first use.
    missing = type(lib).__name__.startswith("ErrorHandler")
    compiled_for_cuda = not missing and bool(getattr(lib, "compiled_with_cuda", False))
    if missing or (gpus() and not compiled_for_cuda):
        detail = f"{version} has no library for this torch's CUDA version"
        fix = "`pip install --upgrade bitsandbytes`, or set BNB_CUDA_VERSION to a version it ships"
        return Finding(name=name, ok=False, detail=detail, fix=fix)
    return Finding(name=name, ok=True, detail=f"{version}, {'CUDA' if compiled_for_cuda else 'CPU'} library")


def _check_kernels() -> Finding:
    if importlib.util.find_spec("kernels") is None:
        return Finding(name="kernels", ok=True, detail="absent, as it should be")
    detail = "the package `kernels` is installed: bitsandbytes would fetch code from the Hub with it"
    return Finding(name="kernels", ok=False, detail=detail, fix="`pip uninstall kernels`")
