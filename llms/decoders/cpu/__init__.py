"""The CPU decoder: small Mistral- and Llama-like models, run by kernels compiled for the CPU.

`decoder` is the implementation, `weights` packs weights for the kernels, and `native` finds and calls the
compiled kernels. This file decides before anything is loaded whether the decoder will serve a checkpoint and
how much memory it takes. It imports no torch.

    >>> from llms.decoders.cpu import suits
    >>> suits({"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9})
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llms.decoders.cpu import native
from llms.models.checkpoint import MANIFEST, Facts
from llms.models.memory import Setting, Use, reference
from llms.models.skeleton import fits

__all__ = [
    "BLOCKS",
    "LARGEST",
    "PAGE_AROUND",
    "UNBUILT",
    "expects",
    "footprint",
    "lacks_native_code",
    "suits",
]

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


def expects(facts: Facts, setting: Setting) -> bool:
    """Return whether the decoder will serve a checkpoint that is run in this way."""
    return _serves(facts, setting) and native.missing() is None


def lacks_native_code(facts: Facts, setting: Setting) -> bool:
    """Return whether only the kernels are missing, and could be installed, for the decoder to serve it."""
    return _serves(facts, setting) and native.notice() != ""


def suits(config: Mapping[str, Any]) -> bool:
    """Return whether the kernels support a model's shapes."""
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    columns = dim * (heads + 2 * (config.get("num_key_value_heads") or heads))
    widths = (config["hidden_size"], config["intermediate_size"], dim * heads)
    return dim <= 128 and all(width % 32 == 0 for width in (dim, *widths)) and columns % 16 == 0


def footprint(facts: Facts, setting: Setting) -> Use:
    """Return the memory that the decoder takes.

    That is what the reference decoder takes, plus the packed weights. Once these lie next to the checkpoint,
    the matrices that they were made from are never read again and do not count.
    """
    use = reference(facts, setting)
    if fits(facts):
        use = replace(use, overhead=use.overhead - UNBUILT)
    layers = sum(tensor.elements for tensor in facts.linears)
    head = facts.config["vocab_size"] * facts.config["hidden_size"]
    if (blocks := facts.folder / BLOCKS).is_file():
        unread = 2 * layers + max(0, 2 * head - PAGE_AROUND * setting.window * setting.slots)
        return replace(use, overhead=use.overhead + blocks.stat().st_size - unread)
    packed = layers * 5 // 8 + head * 17 // 16 if (facts.folder / MANIFEST).is_file() else 2 * (layers + head)
    return replace(use, overhead=use.overhead + packed)


def _serves(facts: Facts, setting: Setting) -> bool:
    how = (setting.quantization, setting.device, setting.dtype)
    return (
        facts.config.get("model_type") in ("mistral", "llama")
        and how == ("none", "cpu", "bfloat16")
        and not setting.adapter
        and facts.parameters <= LARGEST
        and suits(facts.config)
    )
