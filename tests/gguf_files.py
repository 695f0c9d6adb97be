"""GGUF files of a few hundred kilobytes with matrices of any type, and the same model in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from tiny_models import SPECIALS, TEMPLATE, VOCABULARY
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
NAMES = {
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
WORDS = 300


def random_blocks(kind: str, rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Return random weights of a type, as the bytes uint8 [rows, bytes of a row] of a file."""
    type_, random = GGMLQuantizationType[kind], np.random.default_rng(seed)
    if kind[-1] != "K":
        values = random.standard_normal((rows, width)).astype(np.float32) * 0.05
        return np.ascontiguousarray(quants.quantize(values, type_)).view(np.uint8).reshape(rows, -1)
    block, size = GGML_QUANT_SIZES[type_]
    raw = random.integers(0, 256, (rows, width // block, size), np.uint8)
    scale = random.uniform(0.5, 1, (rows, width // block, 2)).astype(np.float32)
    if kind == "Q6_K":
        raw[..., 208:] = (scale[..., :1] * 4e-5).astype(np.float16).view(np.uint8)
    else:
        scale[..., 0] *= 4e-4 if kind == "Q4_K" else 2e-4
        scale[..., 1] *= 3e-3
        raw[..., :4] = scale.astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def floats(kind: str, raw: np.ndarray) -> np.ndarray:
    """Return the weights fp32 [rows, width] that the package gguf reads from bytes."""
    return np.asarray(quants.dequantize(raw, GGMLQuantizationType[kind]), np.float32).reshape(len(raw), -1)


def write_gguf(
    path: Path,
    kind: str = "Q4_K",
    *,
    architecture: str = "llama",
    kinds: dict[str, str] | None = None,
    tied: bool = False,
    **changes: Any,
) -> Any:
    """Write a model with random weights; return the model of transformers in fp32 that has the same.

    Args:
        path: The file.
        kind: The type of its matrices.
        architecture: `llama`, `qwen2` or `qwen3`.
        kinds: Other types by the end of a tensor's name, such as "attn_v".
        tied: Whether the head is the embedding.
        changes: Other sizes than the default, under the names of config.json.
    """
    sizes = {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": WORDS, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": tied,
    } | changes  # fmt: skip
    config_class, model_class = CLASSES[architecture]
    config = config_class(**sizes, eos_token_id=2, bos_token_id=1, pad_token_id=2)
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    writer = GGUFWriter(path, architecture)
    _add_facts(writer, sizes, architecture)
    random = np.random.default_rng(1)
    state = dict(model.state_dict())
    for seed, (name, weight) in enumerate(state.items()):
        if tied and name == "lm_head.weight":
            continue
        theirs = _their_name(name)
        if weight.ndim == 1:
            is_norm = "norm" in name
            values = random.uniform(0.5, 1.5, len(weight)) if is_norm else random.normal(0, 0.1, len(weight))
            state[name] = torch.from_numpy(values.astype(np.float32))
            writer.add_tensor(theirs, values.astype(np.float32))
            continue
        its = next((k for end, k in (kinds or {}).items() if f".{end}." in f".{theirs}"), kind)
        raw = random_blocks(its, *weight.shape, seed=seed)
        values = floats(its, raw)
        if architecture == "llama" and (".q_proj" in name or ".k_proj" in name):
            # The file's rows are turned: (0, half), (1, half + 1) and so on.
            dim = sizes["head_dim"]
            values = values.reshape(-1, dim // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        state[name] = torch.from_numpy(np.array(values))
        writer.add_tensor(theirs, raw, raw_dtype=GGMLQuantizationType[its])
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_facts(writer: GGUFWriter, sizes: dict[str, Any], architecture: str) -> None:
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_key_length(sizes["head_dim"])
    writer.add_value_length(sizes["head_dim"])
    count = sizes["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if architecture != "llama" else "smollm")
    unused = [f"<unused{i}>" for i in range(count - len(VOCABULARY) - 1)]
    writer.add_token_list([*VOCABULARY, "Ġa", *unused])
    kinds = [3] * len(SPECIALS) + [1] * (len(VOCABULARY) - len(SPECIALS) + 1) + [5] * len(unused)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _their_name(name: str) -> str:
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, end = name.rpartition(".")
    if stem in top:
        return f"{top[stem]}.{end}"
    _, _, index, module = stem.split(".", 3)
    return f"blk.{index}.{next(theirs for theirs, ours in NAMES.items() if ours == module)}.{end}"
