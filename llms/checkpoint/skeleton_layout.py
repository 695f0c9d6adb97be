"""The one layout of checkpoints that is read without transformers, and what tells whether one is of it.

Knows Mistral's and Llama's configurations, and the names and shapes of their tensors. Refuses to guess: where
transformers' defaults would have a say, or a key means another layer, the checkpoint is not of this layout.
Importing it does not import torch.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llms.checkpoint.facts import Facts

_KNOWN = {"mistral": "MistralForCausalLM", "llama": "LlamaForCausalLM"}
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
"""Sizes that a configuration must name, as transformers' defaults for them differ from class to class."""

_NAMED = {"eos_token_id", "hidden_act", "rms_norm_eps", "tie_word_embeddings"}
"""What else it must name, for the same reason."""

_ODD = ("attention_bias", "layer_types", "mlp_bias", "partial_rotary_factor", "rope_scaling")
"""Keys of layouts that are not this one."""

_TYPES = {"BF16", "F16", "F32"}


class Config(SimpleNamespace):
    """A config.json by attributes, as far as a decoder asks."""

    def get_text_config(self) -> Config:
        """Return this configuration: there is no other part than text."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary."""
        return vars(self)


def fits(facts: Facts) -> bool:
    """Tell whether a checkpoint is exactly of this layout, by its configuration and its tensors' shapes.

    One whose configuration leaves to transformers' defaults what is asked here does not fit.
    """
    config = facts.config
    if _KNOWN.get(str(config.get("model_type"))) != facts.architecture or facts.stored_quantization:
        return False
    if not _is_plain(config):
        return False
    stored = {tensor.name: tensor.shape for tensor in facts.tensors}
    return stored == _shapes(config) and {tensor.dtype for tensor in facts.tensors} <= _TYPES


def config_of(config: dict[str, Any]) -> Config:
    """Return what decoders ask of a configuration that `fits`."""
    return Config(
        **{name: config[name] for name in (*_SIZES, *sorted(_NAMED), "model_type")},
        head_dim=_dim(config),
        sliding_window=config.get("sliding_window"),
        rope_parameters={"rope_type": "default", "rope_theta": _theta(config)},
    )


def _is_plain(config: dict[str, Any]) -> bool:
    sized = all(type(config.get(name)) is int and config[name] > 0 for name in _SIZES)
    if not sized or not _NAMED <= config.keys() or any(config.get(name) for name in _ODD):
        return False
    if config["model_type"] == "mistral" and "sliding_window" not in config:
        return False
    if config["model_type"] == "llama" and config.get("sliding_window") is not None:
        return False
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if config["hidden_size"] % heads or heads % kv_heads or _dim(config) % 2:
        return False
    return config["hidden_act"] == "silu" and _theta(config) is not None


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the layout by name."""
    width, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * _dim(config)
    keys = config["num_key_value_heads"] * _dim(config)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    found["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (words, width)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        found |= {
            f"{layer}.self_attn.q_proj.weight": (queries, width),
            f"{layer}.self_attn.k_proj.weight": (keys, width),
            f"{layer}.self_attn.v_proj.weight": (keys, width),
            f"{layer}.self_attn.o_proj.weight": (width, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return found


def _dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _theta(config: dict[str, Any]) -> float | None:
    """Return the base of rotary embeddings, as a configuration of either age names it; None: not plain."""
    rope, older = config.get("rope_parameters"), config.get("rope_theta")
    if rope is None:
        return float(older) if older else None
    plain = isinstance(rope, dict) and rope.keys() == {"rope_theta", "rope_type"} and older is None
    return float(rope["rope_theta"]) if plain and rope["rope_type"] == "default" else None
