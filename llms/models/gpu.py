"""The GPUs that this process can use, and the reason if there are none.

    >>> [gpu.name for gpu in gpus()] or why_none()  # doctest: +SKIP
    'no NVIDIA GPU or driver found'

Importing this module does not import torch; the first call does.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Any

ENOUGH_GB = 6.0
"""Free memory for Mistral-7B in NF4: 4.14 GB of weights, 0.54 GB of KV cache for 4,096 tokens, workspace and
the CUDA context."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA GPU.

    Attributes:
        index: Its number in this process.
        name: Its product name.
        total: Its memory in bytes.
        free: Its free memory in bytes, at the time of the call.
        bf16: Whether it computes in bfloat16.
    """

    index: int
    name: str
    total: int
    free: int
    bf16: bool


def gpus() -> list[Gpu]:
    """Return the CUDA GPUs that torch can use."""
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


def bandwidth(device: object) -> float:
    """Return the highest bandwidth of a CUDA GPU's memory in bytes per second: two transfers per clock."""
    import torch

    found: Any = torch.cuda.get_device_properties(device)  # type: ignore[arg-type]
    return float(2e3 * found.memory_clock_rate * found.memory_bus_width / 8)


def free_gpu_bytes() -> int:
    """Return the free memory of the emptiest NVIDIA GPU in bytes, without torch; 0 if there is none."""
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
    """Return in a few words why torch has no GPU, for the notice about a fallback to the CPU."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is the CPU build, but there is a GPU" if driver() else "no NVIDIA GPU found"
    return "the NVIDIA driver does not answer torch" if driver() else "no NVIDIA GPU or driver found"


@cache
def driver() -> str | None:
    """Return nvidia-smi's line about the first GPU and its driver; None if it has none.

    nvidia-smi does not need torch, so it distinguishes a missing GPU from a torch without CUDA.
    """
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
