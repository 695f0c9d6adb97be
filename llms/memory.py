"""What a model will take: weights, KV cache and workspace against what is free, in bytes, before loading.

Knows sizes only. Refuses to allocate anything. A plan picks the longest window that fits where none was asked
for, and refuses, with the numbers and an option that would fit, where one was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llms.checkpoint.facts import Facts
from llms.errors import NotEnoughMemory
from llms.footprint import Footprint, Setting, device_bytes, loading_bytes, reference, weight_bytes

MARGIN = 0.05
"""Share of the free memory that is left alone: other programs, fragmentation."""
SMALLEST_WINDOW = 512
"""Below this many tokens a window is of no use, so a plan that reaches it refuses."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Expected memory of one loaded model, in bytes.

    Attributes:
        device: Where it goes.
        weights: What the weights take.
        loading: What loading takes for a while beside the weights: the file that they are converted from.
        cache: What the KV cache takes with every slot full, its growth included.
        workspace: Activations of one prefill pass.
        overhead: What threads, kernels and their packed buffers take, less what they leave unread of weights.
        free: What was free on the device when it was planned.
        window: Longest sequence, in tokens.
        slots: How many sequences of that length.
        narrowed: Whether the window was cut to fit.
    """

    device: str
    weights: int
    loading: int
    cache: int
    workspace: int
    overhead: int
    free: int
    window: int
    slots: int
    narrowed: bool = False

    @property
    def total(self) -> int:
        """Return the expected peak: while loading, or with every slot full.

        What the decoder takes is negative where it leaves most of a mapped file of weights unread.
        """
        full = self.cache + self.workspace + self.overhead
        return self.weights + (max(self.loading, full) if self.loading else full)


def plan(
    facts: Facts,
    setting: Setting,
    *,
    longest: int,
    narrow: bool,
    name: str = "the model",
    free: int | None = None,
    ready: bool = False,
    footprint: Footprint = reference,
) -> Plan:
    """Plan one model on one device.

    Args:
        facts: The checkpoint.
        setting: How it is to run.
        longest: Longest sequence that the model knows, in tokens.
        narrow: Whether the longest window that fits will do where the setting's does not.
        name: How to name the model in the message.
        free: Free bytes on the device; None to look.
        ready: A checkpoint with this very quantization is at hand, so that nothing is converted.
        footprint: How the decoder that will run it spends memory.

    Raises:
        NotEnoughMemory: It does not fit, or the window is longer than the model knows.
    """
    free = free_bytes(setting.device) if free is None else free
    budget = int(free * (1 - MARGIN))
    at = _pricing(facts, setting, footprint, free, budget, ready)
    if setting.window > longest:
        raise NotEnoughMemory(
            f"expected window of at most {longest:,} tokens, all that {name} was made for, "
            f"found {setting.window:,}; ask for less"
        )
    wanted = at(setting.window)
    if wanted.total <= budget:
        return wanted
    fitting = _largest_window(at, min(SMALLEST_WINDOW, wanted.window), wanted.window, budget)
    if narrow and fitting is not None:
        return replace(at(fitting), narrowed=True)
    raise NotEnoughMemory(_refusal(facts, wanted, fitting, setting.quantization, setting.dtype, name))


def _pricing(
    facts: Facts, setting: Setting, footprint: Footprint, free: int, budget: int, ready: bool
) -> Callable[[int], Plan]:
    """Return what tells the plan of a window, in tokens; what is welcome is added where the budget allows."""
    quantization, dtype, device = setting.quantization, setting.dtype, setting.device
    weights = device_bytes(facts, quantization, dtype, device)
    loading = 0 if ready else loading_bytes(facts, quantization, dtype, device)

    def at(tokens: int) -> Plan:
        use = footprint(facts, replace(setting, window=tokens))
        needed = Plan(
            device=device,
            weights=weights,
            loading=loading,
            cache=use.cache,
            workspace=use.workspace,
            overhead=use.overhead,
            free=free,
            window=tokens,
            slots=setting.slots,
            narrowed=False,
        )
        return replace(needed, cache=use.cache + max(0, min(use.welcome, budget - needed.total)))

    return at


def free_bytes(device: str) -> int:
    """Return the free memory of a device in bytes: of the GPU, or of the host and its container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(int(device.partition(":")[2] or 0))[0])
    import psutil

    return min(int(psutil.virtual_memory().available), _container_free())


def _container_free() -> int:
    # A container's limit (cgroup v2) is not in /proc/meminfo, and passing it kills the process without a
    # word.
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        reclaimable = next(
            int(line.split()[1])
            for line in (folder / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        return int(limit) - used + reclaimable if limit != "max" else 1 << 62
    except (OSError, ValueError, StopIteration):
        return 1 << 62


def _largest_window(at: Callable[[int], Plan], low: int, high: int, budget: int) -> int | None:
    if at(low).total > budget:
        return None
    while high - low > 64:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).total <= budget else (low, middle)
    return low


def _refusal(facts: Facts, plan: Plan, fitting: int | None, quantization: str, dtype: str, name: str) -> str:
    numbers = (
        f"{name} needs {plan.total / 1e9:.2f} GB on {plan.device} (weights {plan.weights / 1e9:.2f}, KV "
        f"cache for {plan.slots} x {plan.window:,} tokens {plan.cache / 1e9:.2f}, workspace "
        f"{plan.workspace / 1e9:.2f}), found {plan.free / 1e9:.2f} GB free"
    )
    if fitting is not None:
        return f"{numbers}; a window of {fitting:,} tokens fits: ask for that (window={fitting})"
    small = weight_bytes(facts, "nf4", dtype) if facts.stored_quantization is None else plan.weights
    if quantization == "none" and small + plan.workspace < plan.free * (1 - MARGIN):
        return f"{numbers}; quantization nf4 fits ({small / 1e9:.2f} GB of weights): use --quantization nf4"
    return f"{numbers}; end other programs, or use a smaller model: --model smollm2-135m"
