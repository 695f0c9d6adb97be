"""A model that is ready to decode, with what everything above it asks about it.

Knows a `transformers` (or PEFT) model's own account of itself: type, device, quantization, window. Refuses to
know where it came from and how it was loaded (`llms.models.load`). Importing it does not import torch.

Model and tokenizer come in two forms: what decoding needs of them, which may be our own light readers, and
the objects of `transformers`, which are then loaded when somebody asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import BadRequest
from llms.models.catalog import Source
from llms.models.memory import Plan
from llms.models.skeleton import Skeleton
from llms.tokenizer import PlainTokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that is ready to decode.

    Attributes:
        body: What decoders read: the `transformers` model (or a PEFT model around it) in eval mode, or its
            weights alone.
        codec: What turns texts into ids and back: the `transformers` tokenizer, or a plain one.
        name: How to name it to people.
        source: Where it came from; None for one that was handed over loaded.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What it computes in.
        device: Where it is.
        window: Longest sequence in tokens, prompt and answer together.
        parameters: Number of weights.
        sliding_window: How far back attention reaches, in tokens; None for all the way.
        chat_template: Whether the tokenizer has a chat template.
        decoder: The kind of decoder that memory was planned for; empty for one that was handed over loaded.
        memory: What it was expected to take; None for one that was handed over loaded.
        load_s: How long loading took, in seconds.
        folder: The checkpoint that was read; None for one that was handed over loaded.
        notice: The one line about the choice of model and device; empty where there is nothing to say.
    """

    body: Any
    codec: Any
    name: str
    source: Source | None
    quantization: str
    dtype: torch.dtype
    device: torch.device
    window: int
    parameters: int
    sliding_window: int | None = None
    chat_template: bool = True
    decoder: str = ""
    memory: Plan | None = None
    load_s: float = 0.0
    folder: Path | None = None
    notice: str = ""

    @property
    def model(self) -> Any:
        """Return the `transformers` model, or the PEFT model around it, in eval mode.

        Raises:
            LLMError: It has to be loaded first, and that fails.
        """
        return self.body.whole() if isinstance(self.body, Skeleton) else self.body

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer as `transformers` has it.

        Raises:
            UnsupportedModel: It has to be loaded first, and that fails.
        """
        return self.codec.whole() if isinstance(self.codec, PlainTokenizer) else self.codec


def adopt(model: Any, tokenizer: Any, *, name: str | None = None, window: int | None = None) -> LoadedModel:
    """Describe a `transformers` or PEFT model that the caller has loaded already.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        name: How to name it; None for the name it was loaded by.
        window: Longest sequence in tokens; None for what its configuration says.

    Raises:
        BadRequest: The window is longer than the model knows, or the model has weights on no device.
    """
    longest = int(getattr(model.config, "max_position_embeddings", None) or 2048)
    if window is not None and not 1 <= window <= longest:
        raise BadRequest(f"expected window from 1 to {longest:,} tokens, found {window!r}")
    shown = name or Path(str(getattr(model.config, "_name_or_path", "") or "model")).name
    return describe(model, tokenizer, shown, window or longest)


def describe(model: Any, tokenizer: Any, name: str, window: int) -> LoadedModel:
    """Describe a model in the words of `LoadedModel`; `source`, `memory` and the like are left to the caller.

    Args:
        model: The model on its device, or its weights alone.
        tokenizer: Its tokenizer, or a plain one.
        name: How to name it.
        window: Longest sequence in tokens.

    Raises:
        BadRequest: It has no weights, or none on a device.
    """
    import torch

    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None or weight.device.type == "meta":
        raise BadRequest(
            "expected a model with weights on a device, found none; load it before handing it over"
        )
    method = getattr(model.config, "quantization_config", None)
    quantization = "none"
    if getattr(model, "is_loaded_in_8bit", False):
        quantization = "int8"
    elif getattr(model, "is_loaded_in_4bit", False):
        quantization = str(getattr(method, "bnb_4bit_quant_type", "fp4"))
    return LoadedModel(
        body=model.eval(),
        codec=tokenizer,
        name=name,
        source=None,
        quantization=quantization,
        dtype=weight.dtype,
        device=torch.device(weight.device),
        window=window,
        parameters=sum(p.numel() for p in model.parameters()),
        sliding_window=getattr(model.config, "sliding_window", None),
        chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )
