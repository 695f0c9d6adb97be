"""Memory: what a model will take, against what is free, in bytes, before anything is loaded.

`plan_memory` adds up weights, loading, and what a decoder says it takes (`DecoderMemory`, from the `memory`
function next to each decoder). If no window was asked for, it picks the longest one that fits; otherwise it
refuses with the numbers and a setting that would fit. Nothing is allocated here, and importing this module
does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import NotEnoughMemory

if TYPE_CHECKING:
    from llms.models.checkpoint import Checkpoint
    from llms.params import LoadSettings

CPU_OVERHEAD = 53_000_000
"""Bytes of a CPU model beyond weights, cache and workspace: 50 to 57 MB at windows of 1k to 4k tokens."""
CUDA_OVERHEAD = 64_000_000
"""Bytes of a GPU model beyond weights, cache and workspace: 32 MiB of cuBLAS, and the buffers of a step."""
GPU_ROUNDING = 0.05
"""Share that torch's allocator adds to weights, because it cuts them from blocks of 2 and 20 MiB. Measured
with 8 and 32 layers of Mistral-7B in NF4."""
IDLE_CACHE_BYTES = 512 * 2**20
"""Bytes of KV that the engine keeps of finished sequences, so that a prompt that goes on reuses them."""
MARGIN = 0.05
"""Share of the free memory that a plan leaves to other programs and to fragmentation."""
SMALLEST_WINDOW = 512
"""Tokens below which a window is useless, so that a plan refuses."""

_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_BLOCK = 64  # weights that share one scale in bitsandbytes' 4-bit formats
_NESTED_BLOCK = 256  # scales that share one scale of their own (double quantization)
_STATE_BYTES = 1_100  # code book and nested code book of one quantized matrix


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """What a decoder takes in addition to the weights, in bytes.

    Attributes:
        cache: The KV cache with every slot full, including its growth.
        workspace: Activations of one prefill pass, and matrices unpacked for it.
        overhead: Threads, kernels and packed weights, less what stays unread of a mapped file of weights.
        optional_cache: More cache, which a batch would use and one sequence does not need.
    """

    cache: int
    workspace: int
    overhead: int
    optional_cache: int = 0


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Expected memory of one loaded model, in bytes.

    Attributes:
        device: The device.
        weights: The weights.
        loading: What loading takes for a while in addition: the file that the weights are converted from.
        decoder: What the decoder takes.
        free: Free memory of the device at the time of the plan.
        window: Longest sequence, in tokens.
        slots: Number of sequences of that length.
        narrowed: Whether the window was shortened to fit.
    """

    device: str
    weights: int
    loading: int
    decoder: DecoderMemory
    free: int
    window: int
    slots: int
    narrowed: bool = False

    @property
    def cache(self) -> int:
        """Return the size of the KV cache with every slot full."""
        return self.decoder.cache

    @property
    def total(self) -> int:
        """Return the expected peak, while loading or with every slot full.

        The decoder's share is negative if it leaves most of a mapped file of weights unread.
        """
        full = self.decoder.cache + self.decoder.workspace + self.decoder.overhead
        return self.weights + (max(self.loading, full) if self.loading else full)


def plan_memory(
    checkpoint: Checkpoint,
    settings: LoadSettings,
    decoder_memory: Callable[[Checkpoint, LoadSettings, int], DecoderMemory],
    *,
    longest: int,
    name: str = "the model",
    free: int | None = None,
    ready: bool = False,
) -> MemoryPlan:
    """Return the plan for one model on one device.

    Args:
        checkpoint: The checkpoint.
        settings: Settings in which device, quantization and dtype are decided. If their window is None, the
            longest one that fits is taken.
        decoder_memory: The `memory` function of the decoder that will run the model.
        longest: Longest sequence that the model was made for, in tokens.
        name: The model's name in the message.
        free: Free bytes on the device; None to look.
        ready: Whether a checkpoint with this quantization exists, so that nothing is converted.

    Raises:
        NotEnoughMemory: The model does not fit, or the window is longer than the model was made for.
    """
    free = free_bytes(settings.device) if free is None else free
    budget = int(free * (1 - MARGIN))
    asked = settings.window or longest
    if asked > longest:
        raise NotEnoughMemory(
            f"expected window of at most {longest:,} tokens, which is all that {name} was made for, "
            f"found {asked:,}; ask for less"
        )
    weights = device_bytes(checkpoint, settings)
    loading = 0 if ready else loading_bytes(checkpoint, settings)

    def at(window: int) -> MemoryPlan:
        needed = MemoryPlan(
            device=settings.device,
            weights=weights,
            loading=loading,
            decoder=decoder_memory(checkpoint, settings, window),
            free=free,
            window=window,
            slots=settings.slots,
        )
        decoder = needed.decoder
        extra = max(0, min(decoder.optional_cache, budget - needed.total))
        return replace(needed, decoder=replace(decoder, cache=decoder.cache + extra))

    wanted = at(asked)
    if wanted.total <= budget:
        return wanted
    fitting = _largest_window(at, min(SMALLEST_WINDOW, asked), asked, budget)
    if settings.window is None and fitting is not None:
        return replace(at(fitting), narrowed=True)
    raise NotEnoughMemory(_refusal(checkpoint, settings, wanted, fitting, name))


def _largest_window(at: Callable[[int], MemoryPlan], low: int, high: int, budget: int) -> int | None:
    if at(low).total > budget:
        return None
    while high - low > 64:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).total <= budget else (low, middle)
    return low


def _refusal(
    checkpoint: Checkpoint, settings: LoadSettings, plan: MemoryPlan, fitting: int | None, name: str
) -> str:
    numbers = (
        f"{name} needs {plan.total / 1e9:.2f} GB on {plan.device} (weights {plan.weights / 1e9:.2f}, KV "
        f"cache for {plan.slots} x {plan.window:,} tokens {plan.cache / 1e9:.2f}, workspace "
        f"{plan.decoder.workspace / 1e9:.2f}), found {plan.free / 1e9:.2f} GB free"
    )
    if fitting is not None:
        return f"{numbers}; a window of {fitting:,} tokens fits: use window={fitting}"
    if settings.quantization == "none":
        small = weight_bytes(checkpoint, "nf4", str(settings.dtype))
        if small + plan.decoder.workspace < plan.free * (1 - MARGIN):
            weights = f"{small / 1e9:.2f} GB of weights"
            return f'{numbers}; quantization nf4 fits ({weights}): use quantization="nf4"'
    return f'{numbers}; end other programs, or use a smaller model: model="smollm2-135m"'


def device_bytes(checkpoint: Checkpoint, settings: LoadSettings) -> int:
    """Return the size of the weights on the device, in bytes."""
    exact = weight_bytes(checkpoint, settings.quantization, str(settings.dtype))
    return exact if settings.device == "cpu" else int(exact * (1 + GPU_ROUNDING))


def weight_bytes(checkpoint: Checkpoint, quantization: str, dtype: str) -> int:
    """Return the size of the weights themselves, in bytes."""
    if checkpoint.gguf is not None:
        return checkpoint.weight_bytes
    item = _ITEM_BYTES[dtype]
    if checkpoint.stored_quantization is not None:
        headers = checkpoint.headers
        return sum(t.elements * (item if t.dtype in ("BF16", "F16") else t.item_bytes) for t in headers)
    if quantization == "none":
        return checkpoint.parameters * item
    packed = sum(t.elements for t in checkpoint.linears)
    matrices = sum(1 for _ in checkpoint.linears)
    rest = (checkpoint.parameters - packed) * item
    if quantization == "int8":
        return rest + packed + sum(4 * t.shape[0] for t in checkpoint.linears)
    scales = packed // _BLOCK
    return rest + packed // 2 + scales + 4 * scales // _NESTED_BLOCK + matrices * _STATE_BYTES


def loading_bytes(checkpoint: Checkpoint, settings: LoadSettings) -> int:
    """Return what loading takes for a while in addition to the weights, in bytes.

    On the host that is the mapped file, unless the weights are used as they lie in it. A GPU receives one
    matrix after the other, unpacked, while the host reads ahead.
    """
    stored = (checkpoint.stored_quantization or "none", checkpoint.stored_dtype)
    if (settings.quantization, settings.dtype) == stored:
        return 0
    if settings.device == "cpu":
        return checkpoint.weight_bytes + CPU_OVERHEAD
    return 4 * largest_matrix(checkpoint) * item_bytes(settings) + CUDA_OVERHEAD


def largest_matrix(checkpoint: Checkpoint) -> int:
    """Return the number of weights of the largest matrix that quantization packs."""
    return max((header.weights for header in checkpoint.linears), default=0)


def item_bytes(settings: LoadSettings) -> int:
    """Return the size of a value in the dtype of the settings, in bytes."""
    return _ITEM_BYTES[str(settings.dtype)]


def kv_bytes(config: Mapping[str, Any], dtype: str) -> int:
    """Return the size of one token's keys and values over all layers, in bytes.

    >>> mistral = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    >>> kv_bytes({**mistral, "head_dim": 128}, "bfloat16")
    131072
    """
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * _ITEM_BYTES[dtype])


def free_bytes(device: str) -> int:
    """Return the free memory of a device in bytes: of the GPU, or of the host and its container."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(int(device.partition(":")[2] or 0))[0])
    import psutil

    return min(int(psutil.virtual_memory().available), _container_free())


def _container_free() -> int:
    # /proc/meminfo does not show a container's limit (cgroup v2), and the kernel kills a process that
    # exceeds it.
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
