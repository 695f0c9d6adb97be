"""What `agent models` says about one model: its line in the list, its details, and where it would fit.

Knows words and sizes. Refuses to look for models (`llms.registry` does), and to import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llms.catalog import Source
from llms.checkpoint.facts import Facts
from llms.choose import SMALL
from llms.footprint import token_bytes, weight_bytes
from llms.gpu import free_gpu_bytes
from llms.memory import free_bytes

_OVERHEAD = 1_000_000_000
"""KV cache for 4,096 tokens of a 7B model and workspace, in bytes: what "fits" allows beside the weights."""
_NF4_BYTES = 0.57
"""Bytes a weight in NF4 over a whole Mistral-7B, embeddings in bf16: 4.14 GB / 7.25e9."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `agent models list`.

    Attributes:
        name: What `--model` takes.
        title: What people call it.
        parameters: Number of weights; None where it is not known before it is pulled.
        quantization: What `auto` loads it in.
        size: Bytes on this disk; 0 where it is not here.
        context: Longest sequence in tokens; None where it is not known.
        fits: `gpu`, `cpu` or `no`: where it can run now; empty where that is not known.
        default: Whether it is the default.
        aliases: Other names for it.
    """

    name: str
    title: str
    parameters: int | None
    quantization: str
    size: int
    context: int | None
    fits: str
    default: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Details:
    """What `agent models show` tells about one model.

    Attributes:
        row: Its line of the list.
        source: Where it comes from.
        folder: Its checkpoint; None where it is not here.
        facts: What the checkpoint says of itself: architecture, layers, heads, window, stored type, files.
        quantized: 4-bit checkpoints made from it.
        problem: What is wrong with the checkpoint; empty where nothing is.
    """

    row: Row
    source: Source
    folder: Path | None
    facts: dict[str, Any] = field(default_factory=dict)
    quantized: tuple[Path, ...] = ()
    problem: str = ""


def fits(parameters: int, quantization: str) -> str:
    """Tell where a model of this size can run now: `gpu`, `cpu` or `no`."""
    needed = parameters * (_NF4_BYTES if quantization == "nf4" else 2)
    needed += _OVERHEAD if parameters >= SMALL else _OVERHEAD / 4
    if needed <= free_gpu_bytes():
        return "gpu"
    return "cpu" if needed <= free_bytes("cpu") else "no"


def summary(facts: Facts) -> dict[str, Any]:
    """Return what a checkpoint says of itself, in the words that `agent models show` prints."""
    config = facts.config
    quantization = facts.stored_quantization or ("nf4" if facts.parameters >= SMALL else "none")
    return {
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads") or config.get("num_attention_heads"),
        "vocabulary": config.get("vocab_size"),
        "context": facts.context,
        "sliding_window": facts.sliding_window,
        "stored_as": facts.stored_quantization or facts.stored_dtype,
        "bytes": facts.weight_bytes,
        "tokenizer": facts.tokenizer,
        "chat_template": facts.chat_template,
        "needs_bytes": weight_bytes(facts, quantization, "bfloat16"),
        "kv_bytes_a_token": token_bytes(facts, "bfloat16"),
    }
