"""What the reference decoder serves and how much memory it takes; importing this file imports no torch.

`llms.decoders.reference` is the implementation. It serves every model with a plain key-value cache, so it is
the last that is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llms.models.memory import (
    CPU_OVERHEAD,
    CUDA_OVERHEAD,
    DecoderMemory,
    item_bytes,
    kv_bytes,
    largest_matrix,
)

if TYPE_CHECKING:
    from llms.models.checkpoint import Checkpoint
    from llms.models.loaded import LoadedModel
    from llms.params import LoadSettings

NAME = "reference"

PREFILL_CHUNK = 1024
"""Tokens of a prompt in one pass. Attention's memory stays bounded, and matrix products are full-sized."""

UNPACKING_OVERHEAD = 89_000_000
"""Bytes that bitsandbytes adds on the CPU, where it unpacks matrices: 142 MB in place of `CPU_OVERHEAD`."""


def supports(checkpoint: Checkpoint, settings: LoadSettings) -> str | None:
    """Return None: the decoder serves every checkpoint."""
    return None


def supports_loaded(loaded: LoadedModel) -> str | None:
    """Return None: the decoder serves every model, or says when it is built why it cannot."""
    return None


def memory(checkpoint: Checkpoint, settings: LoadSettings, window: int) -> DecoderMemory:
    """Return the memory that the decoder takes in addition to the weights.

    Its cache grows by doubling, keys first. While the new keys are made, the old values of half that size
    still exist, which is a quarter on top. A GPU's allocator also keeps all the smaller blocks, which is as
    much again (1.9 to 2.0 measured). A pass needs most memory in the MLP (gate, up and their product) and, on
    the CPU, in attention over the whole window, where keys and values are repeated for every query head.
    Quantized matrices are unpacked one at a time.
    """
    config, item = checkpoint.config, item_bytes(settings)
    full = kv_bytes(config, str(settings.dtype)) * window * settings.slots
    on_gpu, quantized = settings.device != "cpu", settings.quantization != "none"
    tokens = min(PREFILL_CHUNK, window)
    hidden, inner = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    mlp = tokens * 3 * inner * item
    mask = tokens * window
    repeated = 0 if on_gpu else 2 * heads * head_dim * window * item
    residual = tokens * 4 * hidden * max(item, 4)
    logits = 2 * config["vocab_size"] * 4
    unpacked = largest_matrix(checkpoint) * item if quantized else 0
    on_cpu = CPU_OVERHEAD + (UNPACKING_OVERHEAD if quantized else 0)
    return DecoderMemory(
        cache=2 * full if on_gpu else full + full // 4,
        workspace=int(max(mlp, repeated + mask) + residual + logits + unpacked),
        overhead=CUDA_OVERHEAD if on_gpu else on_cpu,
    )
