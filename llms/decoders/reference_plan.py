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

PAGE = 32
"""Tokens per page of the KV cache, a multiple of the 16 keys that a kernel scores at a time. A slot leaves
half a page unused on average, and a fork that goes on copies up to one page: 0.7 MB of the embedded model."""

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

    Its cache consists of whole pages. A pass needs most memory in the MLP (gate, up and their product), or in
    attention over the whole window: the keys and values of one layer are gathered from their pages, and
    repeated for every query head if there is a mask or on the CPU. Quantized matrices are unpacked one at a
    time.
    """
    config, item = checkpoint.config, item_bytes(settings)
    token = kv_bytes(config, str(settings.dtype))
    full = token * -(-window // PAGE) * PAGE * settings.slots
    on_gpu, quantized = settings.device != "cpu", settings.quantization != "none"
    tokens = min(PREFILL_CHUNK, window)
    hidden, inner = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    mlp = tokens * 3 * inner * item
    mask = tokens * window
    gathered = token // config["num_hidden_layers"] * window
    repeated = 0 if on_gpu and window <= tokens else 2 * heads * head_dim * window * item
    residual = tokens * 4 * hidden * max(item, 4)
    logits = 2 * config["vocab_size"] * 4
    unpacked = largest_matrix(checkpoint) * item if quantized else 0
    on_cpu = CPU_OVERHEAD + (UNPACKING_OVERHEAD if quantized else 0)
    return DecoderMemory(
        cache=full,
        workspace=int(max(mlp, gathered + repeated + mask) + residual + logits + unpacked),
        overhead=CUDA_OVERHEAD if on_gpu else on_cpu,
    )
