"""A model that is ready to decode, with everything that the code above it asks about it.

Weights come in two forms. A checkpoint of the plain layout is read by name (`weights`), without transformers.
Everything else, and a model that the caller hands over, is a model of transformers (`model`). Each form is
made from the other when it is first needed. Importing this module imports no torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import BadRequest, UnsupportedModel
from llms.models.catalog import Source
from llms.models.checkpoint import GGUF, Checkpoint
from llms.models.memory import MemoryPlan
from llms.models.weights import ModelWeights, weights_of
from llms.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    import torch

    from llms.models.gguf_model import GgufModel


@dataclass(kw_only=True, eq=False)
class LoadedModel:
    """A model that is ready to decode.

        >>> from llms.models.load import load
        >>> from llms.params import LoadSettings
        >>> loaded = load(LoadSettings(model="smollm2-135m", device="cpu"))  # doctest: +SKIP
        >>> loaded.parameters, loaded.window, str(loaded.dtype)             # doctest: +SKIP
        (134515008, 8192, 'torch.bfloat16')

    Attributes:
        name: The name for people.
        tokenizer: The tokenizer.
        config: The content of config.json.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: The dtype of the computation.
        device: The device of the weights.
        window: Longest sequence in tokens, prompt and answer together.
        parameters: Number of weights.
        end_ids: Ids that end a text, by the model's configurations.
        sliding_window: How many tokens back attention reaches; None if it reaches all of them.
        source: The model's source; None if the caller handed the model over.
        checkpoint: The checkpoint that was read; None if the caller handed the model over.
        decoder: The decoder that memory was planned for; empty if the caller handed the model over.
        memory: The memory plan; None if the caller handed the model over.
        load_s: Duration of loading in seconds.
        notice: One line about the choice of model, device and window; empty if there is nothing to say.
        gguf: The model of a GGUF file that is read in place; None for others.
    """

    name: str
    tokenizer: ModelTokenizer
    config: Mapping[str, Any]
    quantization: str
    dtype: torch.dtype
    device: torch.device
    window: int
    parameters: int
    end_ids: frozenset[int]
    sliding_window: int | None = None
    source: Source | None = None
    checkpoint: Checkpoint | None = None
    decoder: str = ""
    memory: MemoryPlan | None = None
    load_s: float = 0.0
    notice: str = ""
    gguf: GgufModel | None = None
    _pretrained: Any = None
    _weights: ModelWeights | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def model(self) -> Any:
        """Return the model of transformers, or the PEFT model around it, in eval mode.

        A model whose weights were read by name is loaded when this is first asked for.

        Raises:
                UnsupportedModel: The model is a GGUF file that is read in place.
            LLMError: What `llms.models.pretrained.read_model` raises.
        """
        if self.gguf is not None:
            raise UnsupportedModel(
                f"expected a model of transformers, found {str(self.gguf.file.path)!r}, read in place; "
                'load it with decoder="reference"'
            )
        with self._lock:
            if self._pretrained is None:
                from llms.models.pretrained import read_model

                assert self.checkpoint is not None
                dtype = str(self.dtype).removeprefix("torch.")
                how = {"quantization": self.quantization, "dtype": dtype, "device": str(self.device)}
                self._pretrained = read_model(self.checkpoint, **how)
            return self._pretrained

    @property
    def weights(self) -> ModelWeights:
        """Return the weights by name; the model must have Mistral's or Llama's layers."""
        return self._weights or weights_of(self.model)

    @property
    def is_pretrained(self) -> bool:
        """Return whether the model was loaded by transformers, or handed over by the caller."""
        return self._weights is None and self.gguf is None

    @property
    def chat_template(self) -> bool:
        """Return whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)


def adopt(model: Any, tokenizer: Any, *, name: str | None = None, window: int | None = None) -> LoadedModel:
    """Return a model of transformers or PEFT, which the caller has loaded already, as a `LoadedModel`.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        name: The name for people; None for the name that it was loaded by.
        window: Longest sequence in tokens; None for the configuration's.

    Raises:
        BadRequest: The window is longer than the model was made for, or the model has no weights on a device.
    """
    longest = int(getattr(model.config, "max_position_embeddings", None) or 2048)
    if window is not None and not 1 <= window <= longest:
        raise BadRequest(f"expected window from 1 to {longest:,} tokens, found {window!r}")
    shown = name or Path(str(getattr(model.config, "_name_or_path", "") or "model")).name
    return from_pretrained(model, ModelTokenizer.wrap(tokenizer), shown, window or longest)


def from_pretrained(model: Any, tokenizer: ModelTokenizer, name: str, window: int) -> LoadedModel:
    """Return a model of transformers as a `LoadedModel`, without source, checkpoint and memory plan.

    Raises:
        BadRequest: It has no weights, or some of them are on no device.
    """
    import torch

    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None or any(tensor.device.type == "meta" for tensor in model.parameters()):
        raise BadRequest(
            "expected a model with all its weights on a device, found none, or some that are not loaded; "
            "load it whole before handing it over"
        )
    method = getattr(model.config, "quantization_config", None)
    quantization = "none"
    if getattr(model, "is_loaded_in_8bit", False):
        quantization = "int8"
    elif getattr(model, "is_loaded_in_4bit", False):
        quantization = str(getattr(method, "bnb_4bit_quant_type", "fp4"))
    generation = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return LoadedModel(
        name=name,
        tokenizer=tokenizer,
        config=model.config.to_dict(),
        quantization=quantization,
        dtype=weight.dtype,
        device=torch.device(weight.device),
        window=window,
        parameters=sum(p.numel() for p in model.parameters()),
        end_ids=_ids(generation, getattr(model.config, "eos_token_id", None)),
        sliding_window=getattr(model.config, "sliding_window", None),
        _pretrained=model.eval(),
    )


def from_weights(
    weights: ModelWeights, checkpoint: Checkpoint, tokenizer: ModelTokenizer, name: str, window: int
) -> LoadedModel:
    """Return weights that were read by name from a checkpoint as a `LoadedModel`."""
    return LoadedModel(
        name=name,
        tokenizer=tokenizer,
        config=weights.config,
        quantization="none",
        dtype=weights.dtype,
        device=weights.device,
        window=window,
        parameters=weights.parameters,
        end_ids=_ids(_generation_end(checkpoint), weights.config.get("eos_token_id")),
        sliding_window=weights.config.get("sliding_window"),
        checkpoint=checkpoint,
        _weights=weights,
    )


def from_gguf(checkpoint: Checkpoint, tokenizer: ModelTokenizer, name: str, window: int) -> LoadedModel:
    """Return a GGUF file that is read in place as a `LoadedModel`."""
    import torch

    from llms.models.gguf_tokenizer import end_ids

    model = checkpoint.gguf
    assert model is not None
    return LoadedModel(
        name=name,
        tokenizer=tokenizer,
        config=model.config,
        quantization=GGUF,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        window=window,
        parameters=checkpoint.parameters,
        end_ids=end_ids(model.file),
        checkpoint=checkpoint,
        gguf=model,
    )


def _generation_end(checkpoint: Checkpoint) -> Any:
    path = checkpoint.folder / "generation_config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None


def _ids(*values: Any) -> frozenset[int]:
    """Return ids as one set; each value is an id, several ids or None."""
    found = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(int(one) for one in found if one is not None)
