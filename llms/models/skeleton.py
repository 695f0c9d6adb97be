"""The one layout of checkpoints that is read without transformers, and what tells whether one is of it.

Knows Mistral's and Llama's configurations, and the names and shapes of their tensors. Refuses to guess: where
transformers' defaults would have a say, or a key means another layer, the checkpoint is not of this layout.
Importing it does not import torch.

The weights of a Mistral- or Llama-like checkpoint as the CPU decoder reads them, without transformers.

Knows one layer layout (`llms.models.skeleton`) and default rotary embeddings. Refuses to know a
forward pass, quantization and adapters, and to judge what is wrong with a checkpoint: what is not exactly as
expected is left to `llms.models.weights.read_weights`, which reads more, and refuses with a reason.
Importing transformers' own classes and building the same model of them was 2 s of a first answer. Importing
this module imports no torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from llms.models.checkpoint import Facts, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight [rows, width] without a bias."""

    weight: Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """The gain [width] of a root-mean-square norm, and its epsilon."""

    weight: Tensor
    variance_epsilon: float


@dataclass(frozen=True, slots=True)
class Attention:
    """The matrices of a layer's attention."""

    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    o_proj: Matrix


@dataclass(frozen=True, slots=True)
class Mlp:
    """The matrices of a layer's gated perceptron."""

    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, under transformers' names."""

    self_attn: Attention
    mlp: Mlp
    input_layernorm: Norm
    post_attention_layernorm: Norm


@dataclass(frozen=True, slots=True)
class Rotary:
    """Angles of rotary position embeddings (Su et al. 2021, arXiv:2104.09864).

    Attributes:
        inv_freq: fp32 [head dim / 2], the angle of one position.
    """

    inv_freq: Tensor

    def __call__(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [n, k, head dim] of positions int64 [n, k], in x's dtype."""
        import torch

        angles = positions[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@dataclass(frozen=True, slots=True)
class Inner:
    """What stands before the output head."""

    embed_tokens: Matrix
    layers: list[Layer]
    norm: Norm
    rotary_emb: Rotary


class Skeleton:
    """A model's weights and configuration under the names that transformers gives them; it computes nothing.

    Args:
        config: Its configuration.
        tensors: The weights on the CPU by their names in the checkpoint, all of one dtype.
        end_ids: What its generation configuration calls the end of a text, an id or several.
        whole: Loads the same checkpoint as a `transformers` model.
    """

    def __init__(
        self, config: Config, tensors: dict[str, Tensor], end_ids: Any, whole: Callable[[], Any]
    ) -> None:
        self.config = config
        self.generation_config = SimpleNamespace(eos_token_id=end_ids)
        self._tensors, self._load, self._model = tensors, whole, None
        self._lock = threading.Lock()
        self.model = _inner(config, tensors)
        tied = tensors["model.embed_tokens.weight"]
        self.lm_head = Matrix(tensors.get("lm_head.weight", tied))

    def whole(self) -> Any:
        """Return the `transformers` model, loaded when it is first asked for.

        Raises:
            LLMError: What `llms.models.weights.read_weights` raises.
        """
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return self._model

    @property
    def device(self) -> torch.device:
        """Return where the weights are: the CPU."""
        return self.lm_head.weight.device

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over the weights, tied ones once."""
        return iter(self._tensors.values())

    def get_input_embeddings(self) -> Matrix:
        """Return the embedding [vocabulary, width]."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> Matrix:
        """Return the output head [vocabulary, width]."""
        return self.lm_head

    def eval(self) -> Skeleton:
        """Return itself: nothing here is ever trained."""
        return self


def read_skeleton(facts: Facts, dtype: str, whole: Callable[[], Any]) -> Skeleton:
    """Read the weights of a checkpoint that `llms.models.skeleton.fits`.

    Weights that are stored in the dtype asked for stay in the mapped file and take memory once they are read.

    Args:
        facts: The checkpoint.
        dtype: `bfloat16`, `float16` or `float32`.
        whole: Loads the same checkpoint as a `transformers` model.

    Raises:
        DamagedCheckpoint: A file is missing.
        OSError, safetensors.SafetensorError: A file changed under the reader.
    """
    import torch
    from safetensors import safe_open

    asked = getattr(torch, dtype)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(facts.folder):
        with safe_open(file, "pt") as stream:
            tensors |= {name: stream.get_tensor(name) for name in stream.keys()}
    if any(tensor.dtype != asked for tensor in tensors.values()):
        # One tensor that stayed in the file would keep all of it mapped.
        for name in tensors:
            tensors[name] = tensors[name].to(asked, copy=True)
    return Skeleton(config_of(facts.config), tensors, _end_ids(facts), whole)


def _inner(config: Config, tensors: dict[str, Tensor]) -> Inner:
    import torch

    def norm(name: str) -> Norm:
        return Norm(tensors[f"model.{name}.weight"], float(config.rms_norm_eps))

    def matrices(layer: int, part: str, *names: str) -> list[Matrix]:
        return [Matrix(tensors[f"model.layers.{layer}.{part}.{name}.weight"]) for name in names]

    layers = [
        Layer(
            Attention(*matrices(index, "self_attn", "q_proj", "k_proj", "v_proj", "o_proj")),
            Mlp(*matrices(index, "mlp", "gate_proj", "up_proj", "down_proj")),
            norm(f"layers.{index}.input_layernorm"),
            norm(f"layers.{index}.post_attention_layernorm"),
        )
        for index in range(config.num_hidden_layers)
    ]
    powers = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
    rotary = Rotary(1.0 / (config.rope_parameters["rope_theta"] ** powers))
    return Inner(Matrix(tensors["model.embed_tokens.weight"]), layers, norm("norm"), rotary)


def _end_ids(facts: Facts) -> Any:
    path = facts.folder / "generation_config.json"
    if not path.is_file():
        return facts.config["eos_token_id"]
    return json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
