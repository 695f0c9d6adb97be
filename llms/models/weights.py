"""Weights by name: one form for a checkpoint's mapped tensors and for a loaded transformers model.

The CPU and the CUDA decoder read a `ModelWeights`. It comes from a checkpoint (`read_weights`) or from a
model that transformers has loaded (`weights_of`).

    >>> from pathlib import Path
    >>> from llms.models.checkpoint import Checkpoint
    >>> from llms.models.weights import read_weights
    >>> weights = read_weights(Checkpoint.open(Path("SmolLM2-135M")), "bfloat16")  # doctest: +SKIP
    >>> weights["model.layers.0.mlp.up_proj"].shape                                # doctest: +SKIP
    torch.Size([1536, 576])

Only checkpoints of one layout are read without transformers (`has_plain_layout`): Mistral's and Llama's
layers, default rotary embeddings, no quantization. Nothing is guessed: a checkpoint for which transformers'
defaults would matter, or with a key that means another kind of layer, does not have this layout. Importing
transformers and building the same model with it took 2 s of a first answer. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llms.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
"""Names of a layer's matrices."""

_ARCHITECTURES = {"mistral": "MistralForCausalLM", "llama": "LlamaForCausalLM"}
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
"""Sizes that a configuration must name, because transformers' defaults for them depend on the class."""

_NAMED = {"eos_token_id", "hidden_act", "rms_norm_eps", "tie_word_embeddings"}
"""Other keys that it must name, for the same reason."""

_OTHER_LAYOUTS = ("attention_bias", "layer_types", "mlp_bias", "partial_rotary_factor", "rope_scaling")
"""Keys of other layouts."""

_DTYPES = {"BF16", "F16", "F32"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelWeights:
    """Configuration and weights of a Mistral- or Llama-like model, by their names in a checkpoint.

    Attributes:
        config: The content of config.json.
        tensors: The weights by name. A quantized one carries bitsandbytes' `quant_state`.
        inv_freq: fp32 [head dim / 2], the rotary angles of position 1 (Su et al. 2021, arXiv:2104.09864).
        rope_scale: Factor of cosines and sines (YaRN).
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    inv_freq: Tensor
    rope_scale: float = 1.0

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight of a module, such as "model.norm" or "model.layers.0.mlp.up_proj"."""
        return self.tensors[f"{name}.weight"]

    def layer(self, index: int, *names: str) -> list[Tensor]:
        """Return weights of one layer, such as `ATTENTION` or `MLP`."""
        return [self[f"model.layers.{index}.{name}"] for name in names]

    @property
    def embedding(self) -> Tensor:
        """Return the embedding [vocabulary, width]."""
        return self["model.embed_tokens"]

    @property
    def head(self) -> Tensor:
        """Return the output head [vocabulary, width], which is the embedding if they are tied."""
        return self.tensors.get("lm_head.weight", self.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the embedding."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the embedding."""
        return self.embedding.device

    @property
    def parameters(self) -> int:
        """Return the number of weights; tied ones count once."""
        return sum({tensor.data_ptr(): tensor.numel() for tensor in self.tensors.values()}.values())

    @property
    def head_dim(self) -> int:
        """Return the size of an attention head."""
        return _head_dim(self.config)

    @property
    def sliding_window(self) -> int:
        """Return how many tokens back attention reaches; 0 if it reaches all of them."""
        return sliding_window(self.config)

    def rotary(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [positions, head dim], in the dtype and with the rounding of the model."""
        import torch

        places = torch.arange(positions, device=self.inv_freq.device).float()
        angles = places[:, None] * self.inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.rope_scale).to(self.dtype), (angles.sin() * self.rope_scale).to(
            self.dtype
        )


def sliding_window(config: Mapping[str, Any]) -> int:
    """Return how many tokens back attention of a configuration reaches; 0 if it reaches all of them."""
    if set(config.get("layer_types") or ()) == {"full_attention"}:
        return 0
    return int(config.get("sliding_window") or 0)


def read_weights(checkpoint: Checkpoint, dtype: str) -> ModelWeights:
    """Return the weights of a checkpoint that `has_plain_layout`.

    Weights that are stored in the requested dtype stay in the mapped file and take memory once they are read.

    Args:
        checkpoint: The checkpoint.
        dtype: `bfloat16`, `float16` or `float32`.

    Raises:
        DamagedCheckpoint: A file is missing.
        OSError, safetensors.SafetensorError: A file has changed since the checkpoint was opened.
    """
    import torch

    tensors, asked = checkpoint.tensors(), getattr(torch, dtype)
    if any(tensor.dtype != asked for tensor in tensors.values()):
        # One tensor that stayed in the file would keep the whole file mapped.
        for name in tensors:
            tensors[name] = tensors[name].to(asked, copy=True)
    head_dim = _head_dim(checkpoint.config)
    powers = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    theta = _rope_theta(checkpoint.config)
    assert theta is not None, "the layout has default rotary embeddings"
    return ModelWeights(config=checkpoint.config, tensors=tensors, inv_freq=1.0 / (theta**powers))


def weights_of(model: Any) -> ModelWeights:
    """Return the weights of a loaded transformers model with Mistral's or Llama's layers; none are copied."""
    rotary = model.model.rotary_emb
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        if tensor.is_floating_point():  # a quantized one keeps its class, which has the quantization state
            tensors[name] = tensor.detach()
    return ModelWeights(
        config=model.config.to_dict(),
        tensors=tensors,
        inv_freq=rotary.inv_freq,
        rope_scale=float(getattr(rotary, "attention_scaling", 1.0)),
    )


def has_plain_layout(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has exactly this layout, by its configuration and its tensors' shapes."""
    config = checkpoint.config
    if _ARCHITECTURES.get(str(config.get("model_type"))) != checkpoint.architecture:
        return False
    if checkpoint.stored_quantization or not _is_plain(config):
        return False
    stored = {header.name: header.shape for header in checkpoint.headers}
    return stored == _shapes(config) and {header.dtype for header in checkpoint.headers} <= _DTYPES


def _is_plain(config: Mapping[str, Any]) -> bool:
    sized = all(type(config.get(name)) is int and config[name] > 0 for name in _SIZES)
    if not sized or not _NAMED <= config.keys() or any(config.get(name) for name in _OTHER_LAYOUTS):
        return False
    if config["model_type"] == "mistral" and "sliding_window" not in config:
        return False
    if config["model_type"] == "llama" and config.get("sliding_window") is not None:
        return False
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if config["hidden_size"] % heads or heads % kv_heads or _head_dim(config) % 2:
        return False
    return config["hidden_act"] == "silu" and _rope_theta(config) is not None


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the layout by name."""
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * _head_dim(config)
    keys = config["num_key_value_heads"] * _head_dim(config)
    layer = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    found: dict[str, tuple[int, ...]] = {
        f"model.layers.{index}.{name}.weight": shape
        for index in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    found |= {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": (vocabulary, width)}


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rope_theta(config: Mapping[str, Any]) -> float | None:
    """Return the base of default rotary embeddings, in old or new keys; None if they are of another kind."""
    rope, older = config.get("rope_parameters"), config.get("rope_theta")
    if rope is None:
        return float(older) if older else None
    plain = isinstance(rope, dict) and rope.keys() == {"rope_theta", "rope_type"} and older is None
    return float(rope["rope_theta"]) if plain and rope["rope_type"] == "default" else None
