"""A GGUF file as a model: its configuration in config.json's words, its tensors by transformers' names.

    >>> from pathlib import Path
    >>> model = GgufModel.open(Path("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))  # doctest: +SKIP
    >>> model.config["model_type"], model.config["num_hidden_layers"]            # doctest: +SKIP
    ('qwen2', 24)
    >>> model["model.layers.0.mlp.up_proj"].type                                 # doctest: +SKIP
    'Q5_0'

The architectures `llama` (Llama and Mistral), `mistral`, `qwen2` and `qwen3` have one computation with
options: biases of queries, keys and values, and norms of queries and keys. Names and keys are those that
llama.cpp's gguf-py/gguf/constants.py defines. llama.cpp stores the rows of queries and keys of `llama` in
pairs (0, half), (1, half + 1) and so on; `turned` says so.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llms.errors import UnsupportedModel
from llms.models.gguf_file import BLOCKS, GgufFile, GgufTensor

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Architectures that can be read in place, with their classes in transformers."""

SUFFIX = ".gguf"

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_BIASES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True, kw_only=True, eq=False)
class GgufModel:
    """A model that a GGUF file holds.

    Attributes:
        file: The file.
        config: Its configuration, with the keys of config.json.
        tensors: Its tensors by their names in a checkpoint of transformers.
    """

    file: GgufFile
    config: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def open(cls, path: Path) -> GgufModel:
        """Read a file's header.

        Raises:
            DamagedCheckpoint: The file is cut short or contradicts itself.
            UnsupportedModel: Its architecture cannot be read in place, or a tensor has another type.
            OSError: It cannot be read.
        """
        file = GgufFile.open(path)
        config = _config(file)
        tensors = _named(file)
        _check(file, config, tensors)
        return cls(file=file, config=config, tensors=tensors)

    def __getitem__(self, name: str) -> GgufTensor:
        """Return the weight of a module, such as "model.norm" or "model.layers.0.mlp.up_proj"."""
        return self.tensors[f"{name}.weight"]

    @property
    def embedding(self) -> GgufTensor:
        """Return the embedding [vocabulary, width]."""
        return self["model.embed_tokens"]

    @property
    def head(self) -> GgufTensor:
        """Return the output head, which is the embedding if they are tied."""
        return self.tensors.get("lm_head.weight", self.embedding)

    @property
    def head_dim(self) -> int:
        """Return the size of an attention head."""
        return int(self.config["head_dim"])

    @property
    def turned(self) -> bool:
        """Return whether the rows of queries and keys lie in pairs."""
        return self.config["model_type"] in ("llama", "mistral")

    @property
    def matrices(self) -> Iterator[GgufTensor]:
        """Iterate over the matrices that a pass multiplies; the head last."""
        for name, tensor in self.tensors.items():
            if name.endswith("proj.weight"):
                yield tensor
        yield self.head

    @cached_property
    def address(self) -> int:
        """Return the address of the mapped file, which lives as long as this object."""
        return int(self._bytes.__array_interface__["data"][0])

    @cached_property
    def _bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.file.data.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(self.file.data, np.uint8)

    def numbers(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a tensor of floats as fp32: a norm or a bias."""
        tensor = self.tensors[name]
        raw = self._bytes[tensor.start : tensor.start + (tensor.size or 0)]
        if tensor.type == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view(np.float16 if tensor.type == "F16" else np.float32).astype(np.float32)

    def inv_freq(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the rotary angles of position 1, fp32 [head dim / 2]."""
        dim = self.head_dim
        powers = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        found = (1.0 / self.config["rope_theta"] ** powers.astype(np.float64)).astype(np.float32)
        if _ROPE_FACTORS in self.tensors:
            found = found / self.numbers(_ROPE_FACTORS)
        scaled: np.ndarray[Any, np.dtype[np.float32]] = found / np.float32(self.config["rope_scaling_factor"])
        return scaled


def _config(file: GgufFile) -> dict[str, Any]:
    """Return the configuration of a file's model in the words of config.json."""
    kind = file.text("general.architecture")
    if kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"expected a GGUF file of {', '.join(ARCHITECTURES)}, found architecture {kind!r} in "
            f"{str(file.path)!r}"
        )
    heads = file.integer(f"{kind}.attention.head_count", least=1, most=4096)
    width = file.integer(f"{kind}.embedding_length", least=1, most=2**20)
    dim = file.integer(f"{kind}.attention.key_length", width // heads, least=1, most=4096)
    scaling = file.text(f"{kind}.rope.scaling.type") or "none"
    factor = 1.0
    if scaling == "linear":
        factor = file.real(f"{kind}.rope.scaling.factor")
    elif scaling != "none":
        _unsupported(file, "rotary embeddings without scaling or with linear scaling", scaling)
    if file.integer(f"{kind}.rope.dimension_count", dim) != dim:
        _unsupported(file, "rotary embeddings of whole heads", f"{kind}.rope.dimension_count")
    if file.integer(f"{kind}.attention.value_length", dim) != dim:
        _unsupported(file, "keys and values of one size", f"{kind}.attention.value_length")
    if file.integer(f"{kind}.expert_count", 0):
        _unsupported(file, "a model without experts", f"{kind}.expert_count")
    kv_heads = file.integer(f"{kind}.attention.head_count_kv", heads, least=1, most=heads)
    vocabulary = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    config: dict[str, Any] = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "hidden_size": width,
        "intermediate_size": file.integer(f"{kind}.feed_forward_length", least=1, most=2**22),
        "num_hidden_layers": file.integer(f"{kind}.block_count", least=1, most=4096),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": dim,
        "max_position_embeddings": file.integer(f"{kind}.context_length", least=1, most=2**26),
        "rms_norm_eps": file.real(f"{kind}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.real(f"{kind}.rope.freq_base", 10_000.0),
        "rope_scaling_factor": factor,
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": vocabulary,
        "sliding_window": None,
        "quantization_config": {"quant_method": "gguf"},
    }
    if heads % kv_heads:
        file.refuse(f"{heads} heads to be a multiple of those of keys", str(kv_heads))
    for role in ("bos", "eos", "pad"):
        key = {"bos": "bos", "eos": "eos", "pad": "padding"}[role]
        if (token := f"tokenizer.ggml.{key}_token_id") in file.metadata:
            config[f"{role}_token_id"] = file.integer(token, most=max(0, vocabulary - 1))
    return config


def _named(file: GgufFile) -> dict[str, GgufTensor]:
    """Return a file's tensors by their names in a checkpoint."""
    found: dict[str, GgufTensor] = {}
    for name, tensor in file.tensors.items():
        stem, _, end = name.rpartition(".")
        parts = stem.split(".")
        if name == _ROPE_FACTORS:
            found[name] = tensor
        elif stem in _TOP:
            found[f"{_TOP[stem]}.{end}"] = tensor
        elif len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER:
            found[f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{end}"] = tensor
        else:
            _unsupported(file, "tensors of a plain decoder", f"tensor {name[:80]!r}")
    return found


def _check(file: GgufFile, config: Mapping[str, Any], tensors: Mapping[str, GgufTensor]) -> None:
    """Refuse tensors of another shape or type than the configuration says, missing ones, and others."""
    expected = _shapes(config, tensors)
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            file.refuse(f"a tensor for {name!r}", "none")
        elif tensor.shape != shape:
            file.refuse(f"tensor {tensor.name!r} of shape {shape}", str(tensor.shape))
        elif tensor.type not in BLOCKS:
            _unsupported(file, f"blocks of {', '.join(BLOCKS)}", f"{tensor.type} in tensor {tensor.name!r}")
        elif len(shape) == 1 and tensor.type not in ("F32", "F16", "BF16"):
            _unsupported(file, "norms and biases in floats", f"{tensor.type} in tensor {tensor.name!r}")
    if unknown := tensors.keys() - expected.keys():
        _unsupported(file, "tensors of a plain decoder", f"tensor {tensors[min(unknown)].name[:80]!r}")


def _shapes(
    config: Mapping[str, Any], tensors: Mapping[str, GgufTensor]
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Return the shape of every tensor by name."""
    width, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    if "model.layers.0.self_attn.q_proj.bias" in tensors:
        layer |= {f"{name}.bias": (layer[f"{name}.weight"][0],) for name in _BIASES}
    if "model.layers.0.self_attn.q_norm.weight" in tensors:
        layer |= {f"{name}.weight": (dim,) for name in _QK_NORMS}
    found = {
        f"model.layers.{index}.{name}": shape
        for index in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    found |= {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], width)
    if _ROPE_FACTORS in tensors:
        found[_ROPE_FACTORS] = (dim // 2,)
    return found


def _unsupported(file: GgufFile, expected: str, found: str) -> None:
    raise UnsupportedModel(
        f"expected {expected}, found {found} in {str(file.path)!r}; take a Q4_K_M, Q5_K_M, Q6_K or Q8_0 file "
        "of a Llama, Mistral or Qwen model"
    )
