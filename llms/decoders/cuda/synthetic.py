"""Models of given sizes with random NF4 weights, for benchmarks and kernel tests.

Speed depends on shapes and not on values, so measuring it does not need 14 GB of weights.

    >>> model = synthetic_model("cuda", num_hidden_layers=2)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import torch

MISTRAL_7B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768, "max_position_embeddings": 32768,
    "sliding_window": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}  # fmt: skip
"""Mistral-7B-Instruct-v0.3."""

SMOLLM_135M: dict[str, Any] = MISTRAL_7B | {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
}  # fmt: skip
"""SmolLM2-135M: its rows are not a whole number of records, and its embeddings are tied."""


def synthetic_model(device: torch.device | str, *, seed: int = 0, nested: bool = True, **sizes: Any) -> Any:
    """Return a `MistralForCausalLM` whose linear layers are normal random weights in NF4.

    Args:
        device: The device of the weights.
        seed: Seed of the weights.
        nested: Whether the absmax values are quantized too.
        sizes: Fields of `MistralConfig` that differ from Mistral-7B's.
    """
    from bitsandbytes.nn.modules import Linear4bit
    from transformers import MistralConfig, MistralForCausalLM

    device = torch.device(device)
    config = MistralConfig(**(MISTRAL_7B | sizes), attn_implementation="sdpa")
    random = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        model = MistralForCausalLM(config).to(torch.bfloat16)
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        values = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        if parameter.ndim == 1:
            values.uniform_(0.5, 1.5, generator=random)
        else:
            values.normal_(0, 0.03, generator=random)
        if name.endswith("_proj.weight"):
            rows, width = parameter.shape
            linear: Any = Linear4bit(  # type: ignore[no-untyped-call]
                width, rows, bias=False, compute_dtype=torch.bfloat16, device="meta"
            )
            linear.weight = _quantized(values, nested)
            parent, _, child = name.removesuffix(".weight").rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
        else:
            owner.weight = torch.nn.Parameter(values, requires_grad=False)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    return model.eval()


def _quantized(values: torch.Tensor, nested: bool) -> Any:
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn.modules import Params4bit

    codes, state = quantize_4bit(values, blocksize=64, compress_statistics=nested, quant_type="nf4")
    return Params4bit(
        codes, requires_grad=False, quant_state=state, blocksize=64, compress_statistics=nested,
        quant_type="nf4", bnb_quantized=True,
    )  # fmt: skip
