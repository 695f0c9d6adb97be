"""The CUDA decoder: Mistral- and Llama-like models in bitsandbytes NF4, near the speed of the GPU's memory.

`decoder` is the implementation. This file tells before anything is loaded whether the decoder will serve a
checkpoint and how much memory it takes, from the very sizes that it allocates. It imports no torch, so that
planning for one machine costs nothing on another.

    >>> from llms.decoders import cuda
    >>> cuda.prefill_chunk(inner=14_336, qkv_rows=6_144)  # Mistral-7B: tokens of a prompt in one pass
    4096
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llms.models.memory import CUDA_OVERHEAD, IDLE_CACHE_BYTES, DecoderMemory, free_bytes, kv_bytes

if TYPE_CHECKING:
    from llms.decoders.cuda.decoder import CudaDecoder
    from llms.models.checkpoint import Checkpoint
    from llms.models.loaded import LoadedModel
    from llms.params import LoadSettings

__all__ = ["NAME", "build", "memory", "prefill_chunk", "supports", "supports_loaded", "tile_slices"]

NAME = "fast"

CHUNK = 4096
"""Most tokens of a prompt in one pass."""

SLICE = 28 * 2**20
"""Most weights that are unpacked at once: 56 MiB as bf16."""

HIDDEN_VALUES = 58_720_256
"""Most values in the hidden activations of a pass; models wider than Mistral-7B get shorter chunks."""

TILE_ROWS = 16
"""Rows of a packed tile (see `layout`)."""

BATCH_TOKENS = 32_768
"""Tokens of KV cache for a batch, if the GPU has the memory: 64 sequences of 512."""

ARCHITECTURES = ("mistral", "llama")
"""Architectures whose layer the kernels implement; `weights.unsupported` checks what may differ in one."""

_ADAPTER = "it reads only the base model's weights, and there is an adapter; merge it (merge_adapter=True)"


def supports(checkpoint: Checkpoint, settings: LoadSettings) -> str | None:
    """Return why the decoder will not serve a checkpoint that is loaded with these settings; None if it will.

    Args:
        checkpoint: The checkpoint.
        settings: Settings in which device, quantization and dtype are decided.
    """
    if not settings.device.startswith("cuda"):
        return f"it needs a CUDA GPU, the model is on {settings.device}"
    if settings.keeps_adapter:
        return _ADAPTER
    if (settings.quantization, settings.dtype) != ("nf4", "bfloat16"):
        return f"it takes NF4 computed in bfloat16, found {settings.quantization} in {settings.dtype}"
    if (kind := checkpoint.config.get("model_type")) not in ARCHITECTURES:
        return f"it runs {' and '.join(ARCHITECTURES)} layers, the model is {kind}"
    return None


def supports_loaded(loaded: LoadedModel) -> str | None:
    """Return why the decoder does not serve a loaded model; None if it does."""
    if loaded.device.type != "cuda":
        return f"it needs a CUDA GPU, the model is on {loaded.device}"
    if getattr(loaded.model, "peft_config", None):
        return _ADAPTER
    if loaded.source is None and free_bytes(str(loaded.device)) < 2 * loaded.model.get_memory_footprint():
        return "the model belongs to the caller, and there is no room for a second copy of its weights"
    if (kind := loaded.config.get("model_type")) not in ARCHITECTURES:
        return f"it runs {' and '.join(ARCHITECTURES)} layers, the model is {kind}"
    from llms.decoders.cuda.weights import unsupported

    return unsupported(loaded.weights)


def memory(checkpoint: Checkpoint, settings: LoadSettings, window: int) -> DecoderMemory:
    """Return the memory that the decoder takes in addition to the weights.

    Its cache is one pool of pages, allocated at once: room for the window, for what the engine keeps of
    finished sequences and, if there is room, for a batch of short ones. A pass over a prompt unpacks a slice
    of one matrix at a time and holds its product and the hidden activations (`prompt.Prefill`). A later chunk
    of the prompt also gathers the keys and values before it and expands them for every query head (44 kB a
    token of Mistral-7B: 8 kB gathered, twice 16 kB expanded).
    """
    config, token = checkpoint.config, kv_bytes(checkpoint.config, "bfloat16")
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    qkv_rows = (heads + 2 * (config.get("num_key_value_heads") or heads)) * head_dim
    chunk = prefill_chunk(inner=inner, qkv_rows=qkv_rows)
    tokens = min(chunk, window)
    slices = [
        TILE_ROWS * tile_slices(-(-rows // TILE_ROWS), width)[0][1] * width
        for rows, width in ((hidden, heads * head_dim), (2 * inner, hidden), (hidden, inner))
    ]
    scratch = max(*slices, qkv_rows * hidden)
    wide = chunk * max(slices[1] // hidden, qkv_rows)
    activations = chunk * max(inner, heads * head_dim)
    residual = (2 * chunk + 4 * tokens) * hidden
    gathered = 2 * token // config["num_hidden_layers"] + 4 * heads * head_dim * 2
    cache = token * window * settings.slots + IDLE_CACHE_BYTES
    return DecoderMemory(
        cache=cache,
        workspace=2 * (scratch + wide + activations + residual) + max(0, window - tokens) * gathered,
        overhead=CUDA_OVERHEAD,
        optional_cache=max(0, token * min(BATCH_TOKENS, 64 * window) - cache),
    )


def build(loaded: LoadedModel, max_slots: int, window: int, **options: Any) -> CudaDecoder:
    """Return the decoder of a loaded model; it takes the model's layers over, unless the caller owns them."""
    from llms.decoders.cuda.decoder import CudaDecoder

    token = kv_bytes(loaded.config, "bfloat16")
    planned = loaded.memory.cache if loaded.memory else token * max(window, BATCH_TOKENS) + IDLE_CACHE_BYTES
    options = {"cache_tokens": planned // token, "release": loaded.source is not None} | options
    return CudaDecoder(loaded.weights, max_slots=max_slots, window=window, **options)


def prefill_chunk(*, inner: int, qkv_rows: int) -> int:
    """Return the most tokens of a prompt in one pass of a model of these sizes."""
    return max(256, min(CHUNK, HIDDEN_VALUES // max(inner, qkv_rows)))


def tile_slices(tiles: int, width: int) -> list[tuple[int, int]]:
    """Return a matrix as runs of tiles (first, count) of at most `SLICE` weights each."""
    most = max(1, SLICE // (TILE_ROWS * width))
    count = -(-tiles // -(-tiles // most))
    return [(first, min(count, tiles - first)) for first in range(0, tiles, count)]
