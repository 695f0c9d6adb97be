"""What a model will take: weights, KV cache and workspace against what is free, in bytes, before loading.

Knows sizes only. Refuses to allocate anything. A plan picks the longest window that fits where none was asked
for, and refuses, with the numbers and an option that would fit, where one was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llms.errors import NotEnoughMemory
from llms.facts import Facts, item_bytes

CHUNK = 1024
"""Tokens that a prefill pass takes at once (`llms.reference.PREFILL_CHUNK`)."""
MARGIN = 0.05
"""Share of the free memory that is left alone: other programs, fragmentation."""
SMALLEST_WINDOW = 512
"""Below this many tokens a window is of no use, so a plan that reaches it refuses."""
OVERHEAD = {"cpu": 53_000_000, "cpu 4-bit": 106_000_000, "cuda": 64_000_000}
"""Bytes. CPU: the rest after weights, cache and workspace (50 to 57 MB at windows of 1k to 4k tokens; 106 MB
where bitsandbytes unpacks matrices). GPU: cuBLAS's workspace of 32 MiB, and the allocator's rounding to
blocks of 2 and 20 MiB.
"""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_BLOCK = 64  # weights that share one scale in bitsandbytes' 4-bit formats
_NESTED_BLOCK = 256  # scales that share one scale of their own (double quantization)
_STATE_BYTES = 1_100  # code book and nested code book of one quantized matrix


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Expected memory of one loaded model, in bytes.

    Attributes:
        device: Where it goes.
        weights: What the weights take.
        loading: What loading takes for a while beside the weights: the file that they are converted from.
        cache: What the KV cache takes with every slot full, its growth included.
        workspace: Activations of one prefill pass.
        overhead: What threads, kernels and their packed buffers take, whatever the model.
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
        """Return the expected peak: while loading, or with every slot full."""
        return self.weights + max(self.loading, self.cache + self.workspace + self.overhead)


def plan(
    facts: Facts,
    *,
    quantization: str,
    dtype: str,
    device: str,
    longest: int,
    window: int | None = None,
    slots: int = 1,
    name: str = "the model",
    free: int | None = None,
    ready: bool = False,
) -> Plan:
    """Plan one model on one device.

    Args:
        facts: The checkpoint.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What is not quantized, and the KV cache.
        device: `cpu` or `cuda:N`.
        longest: Longest sequence that the model knows, in tokens.
        window: What was asked for; None for the longest that fits.
        slots: How many sequences to make room for.
        name: How to name the model in the message.
        free: Free bytes on the device; None to look.
        ready: A checkpoint with this very quantization is at hand, so that nothing is converted.

    Raises:
        NotEnoughMemory: It does not fit, or `window` is longer than the model knows.
    """
    free = free_bytes(device) if free is None else free
    budget = int(free * (1 - MARGIN))

    def at(tokens: int, narrowed: bool = False) -> Plan:
        return Plan(
            device=device,
            weights=weight_bytes(facts, quantization, dtype),
            loading=0 if ready else loading_bytes(facts, quantization, dtype, device),
            cache=cache_bytes(facts, dtype, tokens, slots),
            workspace=workspace_bytes(facts, quantization, dtype, tokens),
            overhead=_overhead(quantization, device),
            free=free,
            window=tokens,
            slots=slots,
            narrowed=narrowed,
        )

    wanted = at(min(window or longest, longest))
    if window is not None and window > longest:
        raise NotEnoughMemory(
            f"expected window of at most {longest:,} tokens, all that {name} was made for, found {window:,}; "
            f"ask for less"
        )
    if wanted.total <= budget:
        return wanted
    fitting = _largest_window(at, min(SMALLEST_WINDOW, wanted.window), wanted.window, budget)
    if window is None and fitting is not None:
        return at(fitting, narrowed=True)
    raise NotEnoughMemory(_refusal(facts, wanted, fitting, quantization, dtype, name))


def weight_bytes(facts: Facts, quantization: str, dtype: str) -> int:
    """Return what the weights take on the device, in bytes."""
    item = _BYTES[dtype]
    if facts.stored_quantization is not None:
        sizes = (
            t.elements * (item if t.dtype in ("BF16", "F16") else item_bytes(t.dtype)) for t in facts.tensors
        )
        return sum(sizes)
    if quantization == "none":
        return facts.parameters * item
    packed = sum(t.elements for t in facts.linears)
    matrices = sum(1 for _ in facts.linears)
    rest = (facts.parameters - packed) * item
    if quantization == "int8":
        return rest + packed + sum(4 * t.shape[0] for t in facts.linears)
    scales = packed // _BLOCK
    return rest + packed // 2 + scales + 4 * scales // _NESTED_BLOCK + matrices * _STATE_BYTES


def loading_bytes(facts: Facts, quantization: str, dtype: str, device: str) -> int:
    """Return what loading takes beside the weights, in bytes.

    On the host that is the mapped file, unless the weights are used as they lie in it. A GPU gets one matrix
    after the other, unpacked, while the host reads ahead.
    """
    as_stored = (quantization, dtype) == (facts.stored_quantization or "none", facts.stored_dtype)
    if as_stored:
        return 0
    on_device = facts.weight_bytes if device == "cpu" else 4 * facts.largest_linear * _BYTES[dtype]
    return on_device + OVERHEAD["cpu" if device == "cpu" else "cuda"]


def _overhead(quantization: str, device: str) -> int:
    if device != "cpu":
        return OVERHEAD["cuda"]
    return OVERHEAD["cpu" if quantization == "none" else "cpu 4-bit"]


def token_bytes(facts: Facts, dtype: str) -> int:
    """Return one token's keys and values over all layers, in bytes."""
    config = facts.config
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * _BYTES[dtype])


def cache_bytes(facts: Facts, dtype: str, window: int, slots: int) -> int:
    """Return the KV cache's peak, in bytes.

    The cache grows by doubling, keys first: the old half-sized values still stand while the new keys are
    there, a quarter on top.
    """
    full = token_bytes(facts, dtype) * window * slots
    return full + full // 4


def workspace_bytes(facts: Facts, quantization: str, dtype: str, window: int) -> int:
    """Return what one prefill pass takes beside weights and cache, in bytes.

    The widest moments are the MLP (gate, up and their product) and attention over the whole window, where
    keys and values are repeated for every query head; quantized matrices are unpacked one at a time.
    """
    config, item = facts.config, _BYTES[dtype]
    tokens = min(CHUNK, window)
    hidden, inner = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    mlp = tokens * 3 * inner * item
    repeated = 2 * heads * head_dim * window * item
    mask = tokens * window
    residual = tokens * 4 * hidden * max(item, 4)
    logits = 2 * config["vocab_size"] * 4
    unpacked = facts.largest_linear * item if quantization != "none" else 0
    return int(max(mlp, repeated + mask) + residual + logits + unpacked)


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
