"""GGUF files: each is converted once to a safetensors checkpoint in the cache, and found by path and time.

    >>> from pathlib import Path
    >>> folder = converted(Path("model.Q4_K_M.gguf"), cache)  # doctest: +SKIP

The package `gguf` tells whether a file is whole, and transformers reads its weights and tokenizer. Layers of
Llama and Mistral are the same computation if they have no biases, no scaled rotary embedding and no sliding
window. Such a file is written as `model_type: mistral`, so that it takes the same path as Mistral-7B.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import DamagedCheckpoint, UnsupportedModel
from llms.models.checkpoint import Notify, damage, disk_errors, locked, require_space, silent, staging
from llms.quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SHARD = "4GB"
# llama.cpp's pre-tokenizers that separate all digits before they apply GPT-2's rule. transformers 5.23 does
# not know them and applies only GPT-2's rule, which splits the white space before a number differently.
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_MISTRAL_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def convert_gguf(gguf: Path, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a GGUF file's dequantized weights and its tokenizer as a safetensors checkpoint.

    Args:
        gguf: The file.
        folder: An existing folder that receives config.json, the weights and the tokenizer.
        dtype: The dtype of the stored weights; None for bfloat16.

    Raises:
        DamagedCheckpoint: The file is cut short or is not a GGUF file.
        UnsupportedModel: Its quantization or architecture cannot be read.
        OSError: The folder cannot be written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    facts = inspect_gguf(gguf)
    with quiet():
        try:
            where = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
            with _no_bar():
                model = AutoModelForCausalLM.from_pretrained(
                    str(gguf.parent),
                    quantization_config=GgufConfig(dequantize=True),
                    dtype=dtype or torch.bfloat16,
                    **where,
                )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # tokenizers raises a bare Exception for a vocabulary that it cannot use
            raise UnsupportedModel(
                f"expected a GGUF that transformers can read, found architecture {facts['architecture']!r} "
                f"in {str(gguf)!r}: {error}; take the original safetensors repository instead"
            ) from error
        _fix_tokenizer(tokenizer, facts)
        model = _as_mistral(model)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        with disk_errors(folder):
            model.save_pretrained(folder, max_shard_size=SHARD)
            tokenizer.save_pretrained(folder)


def inspect_gguf(gguf: Path) -> dict[str, Any]:
    """Return the facts of a GGUF's header; refuse a file that is cut short or cannot be dequantized.

    Returns:
        `architecture`, `pre_tokenizer` (llama.cpp's name, or None), `context` (tokens, or None),
        `parameters` and `quantization` (the type that holds most weights, such as "Q4_K").

    Raises:
        DamagedCheckpoint: The file is cut short, or is not a GGUF file.
        UnsupportedModel: A tensor has a type that the package `gguf` cannot dequantize.
    """
    from gguf import GGUFReader
    from gguf.constants import GGML_QUANT_SIZES

    size = gguf.stat().st_size
    try:
        reader = GGUFReader(gguf)
    except Exception as error:  # the reader trusts the file, so a short one fails anywhere, with any error
        if "GGMLQuantizationType" in str(error):
            raise UnsupportedModel(
                f"expected a GGUF quantization that the package gguf knows, found {error} in {str(gguf)!r}; "
                "take a Q4_K_M, Q5_K_M, Q8_0 or F16 file of the same model"
            ) from error
        raise DamagedCheckpoint(_cut_short(gguf, size, error)) from error
    amounts: dict[str, int] = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        if not _can_dequantize(kind.name):
            raise UnsupportedModel(
                f"expected a GGUF quantization that can be undone, found {kind.name} in {tensor.name!r} of "
                f"{str(gguf)!r}; take a Q4_K_M, Q5_K_M, Q8_0 or F16 file of the same model"
            )
        block, block_bytes = GGML_QUANT_SIZES[kind]
        elements = int(tensor.n_elements)
        if int(tensor.data_offset) + elements // block * block_bytes > size:
            raise DamagedCheckpoint(_cut_short(gguf, size, f"tensor {tensor.name!r} ends beyond it"))
        amounts[kind.name] = amounts.get(kind.name, 0) + elements
    architecture = _field(reader, "general.architecture")
    return {
        "architecture": architecture,
        "pre_tokenizer": _field(reader, "tokenizer.ggml.pre"),
        "context": _field(reader, f"{architecture}.context_length"),
        "parameters": sum(amounts.values()),
        "quantization": max(amounts, key=lambda name: amounts[name], default="none"),
    }


@contextmanager
def _no_bar() -> Iterator[None]:
    # This module of transformers calls tqdm directly, so the library's own switch has no effect on its bar.
    import transformers.modeling_gguf_pytorch_utils as module

    bar = getattr(module, "tqdm", None)
    if bar is not None:
        module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            module.tqdm = bar


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _can_dequantize(kind: str) -> bool:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import _type_traits

    return kind in {"F32", "F16", "BF16"} or GGMLQuantizationType[kind] in _type_traits


def _cut_short(gguf: Path, size: int, reason: object) -> str:
    return (
        f"expected a whole GGUF file, found {str(gguf)!r} ({size:,} bytes) cut short or damaged: {reason}; "
        f"download it again and compare its hash with the publisher's"
    )


def _fix_tokenizer(tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any]) -> None:
    from tokenizers import pre_tokenizers

    if facts["pre_tokenizer"] in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if facts["context"]:
        tokenizer.model_max_length = int(facts["context"])


def _as_mistral(model: PreTrainedModel) -> PreTrainedModel:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    config = model.config
    if not _computes_like_mistral(config):
        return model
    settings = {name: getattr(config, name) for name in _MISTRAL_FIELDS if hasattr(config, name)}
    with torch.device("meta"):
        mistral = MistralForCausalLM(MistralConfig(**settings, sliding_window=None, dtype=config.dtype))
    mistral.load_state_dict(model.state_dict(), assign=True)
    mistral.tie_weights()
    return mistral


def _computes_like_mistral(config: PretrainedConfig) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type == "llama"
        and not getattr(config, "attention_bias", False)
        and not getattr(config, "mlp_bias", False)
        and rope.get("rope_type", "default") == "default"
    )


def converted_path(gguf: Path, cache: Path) -> Path:
    """Return the place of a GGUF file's checkpoint; it depends on the file's path, size and time."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:8]
    return cache / "gguf" / f"{gguf.stem}-{key}"


def converted(gguf: Path, cache: Path, *, notify: Notify = silent) -> Path:
    """Return a GGUF file's checkpoint folder; it is converted first if it is missing or damaged.

    Raises:
        DamagedCheckpoint: The file is cut short, or is not a GGUF file.
        UnsupportedModel: Its quantization or architecture cannot be read.
        NoSpace: There is no room for the bfloat16 weights.
        CacheNotWritable: The cache cannot be written.
    """
    target = converted_path(gguf, cache)
    if damage(target) is None:
        return target

    facts = inspect_gguf(gguf)
    with locked(target, notify):
        if damage(target) is None:
            return target
        require_space(target.parent, 2 * facts["parameters"] + 2**24, f"converting {gguf.name}")
        notify(f"converting {gguf.name} to a checkpoint in {target.parent} (once)")
        with staging(target, {"gguf": str(gguf), "quantization": facts["quantization"]}) as folder:
            convert_gguf(gguf, folder)
    return target
