"""Before anything is loaded: whether the lean decoder will serve a checkpoint, and what memory it takes.

Knows shapes and settings. Refuses to import torch; the model itself is judged by `llms.lean.decoder.why_not`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llms.lean.compiler import why_not
from llms.models.checkpoint import MANIFEST, Facts
from llms.models.memory import Setting, Use, reference
from llms.models.skeleton import fits

LARGEST = 1_000_000_000
"""Weights of the largest model taken. Beyond, memory traffic is all that counts, and a second copy of the
weights costs more than it gains."""

BLOCKS = "blocks.safetensors"
"""Name of the file of `llms.lean.pack`'s blocks beside a checkpoint."""

TOUCHED = 65_536
"""What Linux maps around a place of a file that is read, in bytes: what one row of the embedding brings.

Of a file that was just written it maps more, as that lies in larger pieces: pages that it takes back when
memory is short, and that no plan counts."""

UNBUILT = 20_000_000
"""What transformers' model and tokenizer take, in bytes: 9 to 20 MB at windows of 512 to 4,096 tokens. They
are not made where a checkpoint is read without them."""

REORDERING = 60_000_000
"""What oneDNN and its threads keep besides, in bytes: 20 to 90 MB with one and two threads."""


def expects(facts: Facts, setting: Setting) -> bool:
    """Tell whether the lean decoder will serve a checkpoint that is run so."""
    how = (setting.quantization, setting.device, setting.dtype)
    known = facts.config.get("model_type") in ("mistral", "llama")
    fits = how in (("none", "cpu", "bfloat16"), ("none", "cpu", "float32"))
    return known and fits and not setting.adapter and facts.parameters <= LARGEST


def suits(config: Mapping[str, Any]) -> bool:
    """Tell whether a model's shapes are ones that the machine code was written for."""
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    columns = dim * (heads + 2 * (config.get("num_key_value_heads") or heads))
    widths = (config["hidden_size"], config["intermediate_size"], dim * heads)
    return dim <= 128 and all(width % 32 == 0 for width in (dim, *widths)) and columns % 16 == 0


def footprint(facts: Facts, setting: Setting) -> Use:
    """Return what the lean decoder takes.

    That is what the reference decoder takes and, in bf16, with machine code: its blocks. Once they lie
    beside the checkpoint, the matrices they were made of are never read again, nor are they in memory. With
    PyTorch's operators: a copy of every matrix in oneDNN's order and one of the layers' matrices as 4-bit
    codes, with a scale and an offset (2 bytes each) for every 32.
    """
    use = reference(facts, setting)
    if fits(facts):
        use = replace(use, overhead=use.overhead - UNBUILT)
    if setting.dtype != "bfloat16":
        return use
    layers = sum(t.elements for t in facts.linears)
    head = facts.config["vocab_size"] * facts.config["hidden_size"]
    if why_not() or not suits(facts.config):
        copies = (layers + head) * 2 + layers // 2 + layers // 32 * 4
        return replace(use, overhead=use.overhead + copies + REORDERING)
    if (blocks := facts.folder / BLOCKS).is_file():
        unread = 2 * layers + max(0, 2 * head - TOUCHED * setting.window * setting.slots)
        return replace(use, overhead=use.overhead + blocks.stat().st_size - unread)
    packed = layers * 5 // 8 + head * 17 // 16 if (facts.folder / MANIFEST).is_file() else 2 * (layers + head)
    return replace(use, overhead=use.overhead + packed)
