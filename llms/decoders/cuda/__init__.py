"""The fast decoder: Mistral- and Llama-like models in bitsandbytes NF4 on CUDA GPUs, near the memory's speed.

Only `llms.models.load` imports this package, and lazily. What it cannot take, `why_not` names in one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llms.decoders.cuda.decoder import FastDecoder
from llms.decoders.cuda.weights import why_not

if TYPE_CHECKING:
    from llms.models.load import LoadedModel


def supports(loaded: LoadedModel) -> str | None:
    """Return None where the fast decoder takes this loaded model, else the reason in a line."""
    return why_not(loaded.model)


def build(loaded: LoadedModel, max_slots: int = 64, window: int | None = None, **options: Any) -> FastDecoder:
    """Build the decoder; the model's layers are taken over (see `FastDecoder`)."""
    return FastDecoder(loaded.model, max_slots=max_slots, window=window or loaded.window, **options)


__all__ = ["FastDecoder", "build", "supports", "why_not"]
