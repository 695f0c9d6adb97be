"""What each part of a loaded model takes, in bytes: weights, loading, and a decoder's cache and workspace.

Knows shapes and how each decoder spends memory. Refuses to know what is free and what to do about it
(`llms.models.memory`), and to allocate anything. A decoder that spends otherwise brings a function of its
own beside `reference`, and names it where it is listed (`llms.models.load.KINDS`).

What a model will take: weights, KV cache and workspace against what is free, in bytes, before loading.

Knows sizes only. Refuses to allocate anything. A plan picks the longest window that fits where none was asked
for, and refuses, with the numbers and an option that would fit, where one was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llms.errors import NotEnoughMemory
from llms.models.checkpoint import Facts, Tensor, item_bytes

CHUNK = 1024
"""Tokens that a prefill pass takes at once (`llms.decoders.reference.PREFILL_CHUNK`)."""
OVERHEAD = {"cpu": 53_000_000, "cpu 4-bit": 142_000_000, "cuda": 64_000_000}
"""Bytes. CPU: the rest after weights, cache and workspace (50 to 57 MB at windows of 1k to 4k tokens; 142 MB
where bitsandbytes unpacks matrices). GPU: cuBLAS's workspace of 32 MiB, and buffers of a step.
"""
GPU_ROUNDING = 0.05
"""Share that torch's allocator adds to weights by cutting them from blocks of 2 and 20 MiB: measured with 8
and 32 layers of Mistral-7B in NF4.
"""
FAST_CHUNK = 4096
"""Most tokens of a prompt that the fast decoder takes at once."""
FAST_SLICE = 28 * 2**20
"""Weights that it unpacks at once (`llms.decoders.cuda.prompt.SLICE`)."""
FAST_BATCH = 32_768
"""Tokens of KV that a batch gets on a GPU that has them to spare: 64 sequences of 512."""
IDLE_BYTES = 512 * 2**20
"""KV that the engine keeps of finished sequences (`llms.engine.engine.Engine`), in bytes."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_BLOCK = 64  # weights that share one scale in bitsandbytes' 4-bit formats
_NESTED_BLOCK = 256  # scales that share one scale of their own (double quantization)
_STATE_BYTES = 1_100  # code book and nested code book of one quantized matrix


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model would be run.

    Attributes:
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What is not quantized, and the KV cache.
        device: `cpu` or `cuda:N`.
        window: Longest sequence, in tokens.
        slots: How many sequences of that length.
        adapter: Whether a PEFT adapter stays on top.
    """

    quantization: str
    dtype: str
    device: str
    window: int
    slots: int = 1
    adapter: bool = False


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a decoder takes beside the weights, in bytes.

    Attributes:
        cache: The KV cache with every slot full, its growth included.
        workspace: Activations of one prefill pass, and matrices unpacked for it.
        overhead: What threads, kernels and their packed buffers take, whatever the model.
        welcome: More cache, which a batch would use and one sequence does not need.
    """

    cache: int
    workspace: int
    overhead: int
    welcome: int = 0

    @property
    def total(self) -> int:
        """Return the sum of what is needed."""
        return self.cache + self.workspace + self.overhead


Footprint = Callable[[Facts, Setting], Use]
"""How one decoder spends memory."""


def device_bytes(facts: Facts, quantization: str, dtype: str, device: str) -> int:
    """Return what the weights take on a device, in bytes."""
    exact = weight_bytes(facts, quantization, dtype)
    return exact if device == "cpu" else int(exact * (1 + GPU_ROUNDING))


def weight_bytes(facts: Facts, quantization: str, dtype: str) -> int:
    """Return the size of the weights themselves, in bytes."""
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
    if device == "cpu":
        return facts.weight_bytes + OVERHEAD["cpu"]
    return 4 * max(map(_unpacked, facts.linears), default=0) * _BYTES[dtype] + OVERHEAD["cuda"]


def token_bytes(facts: Facts, dtype: str) -> int:
    """Return one token's keys and values over all layers, in bytes."""
    return kv_bytes(facts.config, dtype)


def kv_bytes(config: Mapping[str, Any], dtype: str) -> int:
    """Return the same from a configuration alone."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * _BYTES[dtype])


def reference(facts: Facts, setting: Setting) -> Use:
    """Return what the reference decoder takes.

    Its cache grows by doubling, keys first: the old half-sized values still stand while the new keys are
    there, a quarter on top; a GPU's allocator keeps all the smaller blocks besides, which is as much again
    (1.9 to 2.0 measured). The widest moments of a pass are the MLP (gate, up and their product) and, on the
    CPU, attention over the whole window, where keys and values are repeated for every query head; quantized
    matrices are unpacked one at a time.
    """
    full = token_bytes(facts, setting.dtype) * setting.window * setting.slots
    on_gpu = setting.device != "cpu"
    config, item = facts.config, _BYTES[setting.dtype]
    tokens = min(CHUNK, setting.window)
    hidden, inner = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    mlp = tokens * 3 * inner * item
    repeated = 2 * heads * head_dim * setting.window * item
    mask = tokens * setting.window
    residual = tokens * 4 * hidden * max(item, 4)
    logits = 2 * config["vocab_size"] * 4
    unpacked = max(map(_unpacked, facts.linears), default=0) * item if setting.quantization != "none" else 0
    attention = mask if on_gpu else repeated + mask
    where = "cuda" if on_gpu else "cpu" if setting.quantization == "none" else "cpu 4-bit"
    return Use(
        cache=2 * full if on_gpu else full + full // 4,
        workspace=int(max(mlp, attention) + residual + logits + unpacked),
        overhead=OVERHEAD[where],
    )


def fast(facts: Facts, setting: Setting) -> Use:
    """Return what the fast decoder takes (`llms.decoders.cuda`).

    Its cache is one pool of pages, made at once: room for the window, for what the engine keeps of finished
    sequences, and, where there is room, for a batch of short ones. A pass of a prompt unpacks a slice of one
    matrix and holds its product and the hidden activations; a later chunk gathers the keys and values before
    it and expands them for every query head (44 kB a token of Mistral-7B: 8 gathered, twice 16 expanded).
    """
    config, item, token = facts.config, _BYTES[setting.dtype], token_bytes(facts, setting.dtype)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    tokens = min(FAST_CHUNK, setting.window)
    unpacked = FAST_SLICE * item
    product = FAST_CHUNK * (FAST_SLICE // hidden + inner) * item
    residual = tokens * 6 * hidden * item
    gathered = 2 * token // config["num_hidden_layers"] + 4 * config["num_attention_heads"] * head_dim * item
    deep = max(0, setting.window - tokens) * gathered
    cache = token * setting.window * setting.slots + IDLE_BYTES
    return Use(
        cache=cache,
        workspace=unpacked + product + residual + deep,
        overhead=OVERHEAD["cuda"],
        welcome=max(0, token * min(FAST_BATCH, 64 * setting.window) - cache),
    )


def _unpacked(matrix: Tensor) -> int:
    """Return the number of weights of a matrix; one that is stored in 4 bits holds two a byte."""
    return 2 * matrix.elements if matrix.dtype == "U8" else matrix.elements


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
