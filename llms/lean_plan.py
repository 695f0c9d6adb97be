"""Before anything is loaded: whether the lean decoder will serve a checkpoint, and what memory it takes.

Knows shapes and settings. Refuses to import torch; the model itself is judged by `llms.lean.why_not`.
"""

from __future__ import annotations

from dataclasses import replace

from llms.facts import Facts
from llms.footprint import Setting, Use, reference

LARGEST = 1_000_000_000
"""Weights of the largest model taken. Beyond, memory traffic is all that counts, and a second copy of the
weights costs more than it gains."""

REORDERING = 60_000_000
"""What oneDNN and its threads keep besides, in bytes: 20 to 90 MB with one and two threads."""


def expects(facts: Facts, setting: Setting) -> bool:
    """Tell whether the lean decoder will serve a checkpoint that is run so."""
    how = (setting.quantization, setting.device, setting.dtype)
    known = facts.config.get("model_type") in ("mistral", "llama")
    fits = how in (("none", "cpu", "bfloat16"), ("none", "cpu", "float32"))
    return known and fits and not setting.adapter and facts.parameters <= LARGEST


def footprint(facts: Facts, setting: Setting) -> Use:
    """Return what the lean decoder takes.

    That is what the reference decoder takes and, in bf16, a copy of every matrix in oneDNN's order and one of
    the layers' matrices as 4-bit codes, with a scale and an offset (2 bytes each) for every 32.
    """
    use = reference(facts, setting)
    if setting.dtype != "bfloat16":
        return use
    layers = sum(t.elements for t in facts.linears)
    head = facts.config["vocab_size"] * facts.config["hidden_size"]
    copies = (layers + head) * 2 + layers // 2 + layers // 32 * 4
    return replace(use, overhead=use.overhead + copies + REORDERING)
