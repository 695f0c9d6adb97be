"""The CPU decoder: small Mistral- and Llama-like models, run by kernels compiled for the CPU.

`decoder` is the implementation, `weights` packs weights for the kernels, and `native` finds and calls the
compiled kernels. This file tells before anything is loaded whether the decoder will serve a checkpoint and
how much memory it takes. It imports no torch.

    >>> from llms.decoders.cpu import suits
    >>> suits({"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9})
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llms.decoders import reference_plan
from llms.decoders.cpu import native
from llms.models.checkpoint import MANIFEST
from llms.models.memory import CPU_OVERHEAD, DecoderMemory, item_bytes, largest_matrix
from llms.models.weights import has_plain_layout

if TYPE_CHECKING:
    from llms.decoders.cpu.decoder import CpuDecoder
    from llms.models.checkpoint import Checkpoint
    from llms.models.gguf_model import GgufModel
    from llms.models.loaded import LoadedModel
    from llms.params import LoadSettings

__all__ = [
    "BLOCKS",
    "LARGEST",
    "NAME",
    "PAGE_AROUND",
    "UNBUILT",
    "build",
    "gguf_unsuitable",
    "lacks_native_code",
    "memory",
    "suits",
    "supports",
    "supports_loaded",
]

NAME = "lean"

LARGEST = 1_000_000_000
"""Weights of the largest model that the decoder takes. With more of them only memory traffic counts, and a
second copy of the weights costs more than it gains."""

BLOCKS = "blocks.safetensors"
"""Name of the file next to a checkpoint that keeps the packed weights."""

PAGE_AROUND = 65_536
"""Bytes that Linux maps around a place of a file that is read, which is what reading one row of the embedding
costs. Of a file that was just written it maps more, because that file lies in larger pieces; it takes those
pages back when memory is short, so no plan counts them."""

UNBUILT = 20_000_000
"""Bytes of the transformers model and tokenizer, which are not built if a checkpoint is read without them: 9
to 20 MB at windows of 512 to 4,096 tokens."""


def supports(checkpoint: Checkpoint, settings: LoadSettings) -> str | None:
    """Return why the decoder will not serve a checkpoint that is loaded with these settings; None if it will.

    Args:
        checkpoint: The checkpoint.
        settings: Settings in which device, quantization and dtype are decided.
    """
    return _unsuitable(checkpoint, settings) or native.missing()


def supports_loaded(loaded: LoadedModel) -> str | None:
    """Return why the decoder does not serve a loaded model; None if it does."""
    from llms.decoders.cpu.decoder import other_architecture, unsupported

    if loaded.gguf is not None:
        return unsupported(loaded.gguf)
    if loaded.is_pretrained and (reason := other_architecture(loaded.model)):
        return reason
    return unsupported(loaded.weights)


def lacks_native_code(checkpoint: Checkpoint, settings: LoadSettings) -> bool:
    """Return whether only the kernels are missing, and could be installed, for the decoder to serve it."""
    return _unsuitable(checkpoint, settings) is None and native.notice() != ""


def memory(checkpoint: Checkpoint, settings: LoadSettings, window: int) -> DecoderMemory:
    """Return the memory that the decoder takes in addition to the weights.

    That is what the reference decoder takes, plus the packed weights. Those of a GGUF file take the place of
    its pages, so they do not count. Once these lie next to the checkpoint,
    the matrices that they were made from are never read again and do not count.
    """
    found = reference_plan.memory(checkpoint, settings, window)
    if checkpoint.gguf is not None:
        return replace(
            found, workspace=found.workspace - unpacked_bytes(checkpoint, settings), overhead=CPU_OVERHEAD
        )
    unbuilt = UNBUILT if has_plain_layout(checkpoint) else 0
    layers = sum(header.elements for header in checkpoint.linears)
    head = checkpoint.config["vocab_size"] * checkpoint.config["hidden_size"]
    if settings.adapter is not None:  # merged weights are no codes of a file, and nothing of them is kept
        packed = 2 * (layers + head)
    elif (blocks := checkpoint.folder / BLOCKS).is_file():
        unread = 2 * layers + max(0, 2 * head - PAGE_AROUND * window * settings.slots)
        packed = blocks.stat().st_size - unread
    elif (checkpoint.folder / MANIFEST).is_file():
        packed = layers * 5 // 8 + head * 17 // 16
    else:
        packed = 2 * (layers + head)
    return replace(found, overhead=found.overhead - unbuilt + packed)


def unpacked_bytes(checkpoint: Checkpoint, settings: LoadSettings) -> int:
    """Return what the reference decoder counts for one unpacked matrix, which the kernels never make."""
    return largest_matrix(checkpoint) * item_bytes(settings)


def build(loaded: LoadedModel, max_slots: int, window: int) -> CpuDecoder:
    """Return the decoder of a loaded model.

    The packed weights of a converted checkpoint are kept next to it, unless an adapter was merged into the
    weights: these are then a transformers model's and not the checkpoint's own.
    """
    from llms.decoders.cpu.decoder import CpuDecoder
    from llms.decoders.cpu.weights import BlockFile

    if loaded.gguf is not None:
        return CpuDecoder(loaded.gguf, window=window, max_slots=max_slots)
    converted = loaded.source is not None and loaded.source.kind in ("embedded", "gguf")
    own = converted and not loaded.is_pretrained
    blocks = BlockFile(loaded.checkpoint.folder) if own and loaded.checkpoint else None
    return CpuDecoder(loaded.weights, window=window, max_slots=max_slots, blocks=blocks)


def suits(config: Mapping[str, Any]) -> bool:
    """Return whether the kernels support a model's shapes."""
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    columns = dim * (heads + 2 * (config.get("num_key_value_heads") or heads))
    widths = (config["hidden_size"], config["intermediate_size"], dim * heads)
    return dim <= 128 and all(width % 32 == 0 for width in (dim, *widths)) and columns % 16 == 0


def gguf_unsuitable(model: GgufModel) -> str | None:
    """Return why the kernels do not run a GGUF file's model; None if they do."""
    if model.config["num_hidden_layers"] < 1 or not suits(model.config):
        return "sizes that the kernels do not support"
    return None


def _unsuitable(checkpoint: Checkpoint, settings: LoadSettings) -> str | None:
    """Return why the kernels do not support a checkpoint that is loaded with these settings."""
    if checkpoint.gguf is not None:
        if (settings.device, settings.dtype) != ("cpu", "bfloat16") or settings.keeps_adapter:
            return "it runs GGUF files in bfloat16 on the CPU, without adapters"
        return gguf_unsuitable(checkpoint.gguf)
    if (kind := checkpoint.config.get("model_type")) not in ("mistral", "llama"):
        return f"it runs mistral and llama layers, the model is {kind}"
    how = (settings.quantization, settings.device, settings.dtype)
    if how != ("none", "cpu", "bfloat16"):
        return f"it runs unquantized bfloat16 on the CPU, found {settings.quantization} in {settings.dtype}"
    if settings.keeps_adapter:
        return "it does not run adapters; merge it (merge_adapter=True)"
    if (size := checkpoint.parameters) > LARGEST:
        return f"{size:,} weights, more than {LARGEST:,}"
    return None if suits(checkpoint.config) else "sizes that the kernels do not support"
