"""Perplexity of a GGUF file read in place, against transformers on the same weights in fp32.

    python benchmarks/gguf_perplexity.py FILE.gguf --data FOLDER [--files 4] [--tokens 512]

FOLDER holds texts (.rst, .md, .txt); the first `--tokens` tokens of each of `--files` files are scored. The
reference is transformers' class of the architecture with every matrix dequantized by the package gguf, so the
difference is that of the kernels alone. The target is 0.5 %.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llms.decoders.cpu.decoder import CpuDecoder
from llms.models.gguf_model import GgufModel
from llms.models.gguf_tokenizer import read_gguf_tokenizer


def reference(model: GgufModel) -> Any:
    """Return the model of transformers in fp32 with the file's weights."""
    import transformers
    from gguf import GGMLQuantizationType, quants

    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    name, keys = names[model.config["model_type"]], dict(model.config)
    for key in ("quantization_config", "rope_scaling_factor", "architectures", "model_type"):
        del keys[key]
    config = getattr(transformers, f"{name}Config")(**keys)
    with torch.device("meta"):
        found = getattr(transformers, f"{name}ForCausalLM")(config)
    state = {}
    for tensor_name, tensor in model.tensors.items():
        raw = np.frombuffer(model.file.data, np.uint8, tensor.size or 0, tensor.start)
        values = quants.dequantize(
            raw.reshape(*tensor.shape[:-1], -1) if len(tensor.shape) > 1 else raw.view(np.float32),
            GGMLQuantizationType(tensor.number),
        )
        if model.turned and (".q_proj." in tensor_name or ".k_proj." in tensor_name):
            dim = model.head_dim
            values = values.reshape(-1, dim // 2, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        state[tensor_name] = torch.from_numpy(np.array(values, np.float32))
    found.load_state_dict(state, assign=True, strict=False)
    found.tie_weights()
    found.model.rotary_emb = type(found.model.rotary_emb)(config)
    return found.eval()


def loss(logits: torch.Tensor, ids: list[int]) -> float:
    """Return the sum of the negative log-probabilities of a text's tokens after the first."""
    taken = torch.tensor(ids[1:])[:, None]
    return -float(logits[:-1].float().log_softmax(-1).gather(1, taken).double().sum())


def main() -> None:
    """Measure and print both perplexities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    model = GgufModel.open(options.file)
    tokenizer = read_gguf_tokenizer(model.file)
    paths = sorted(p for p in options.data.rglob("*") if p.suffix in (".rst", ".md", ".txt"))
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in paths[: options.files]]
    ids = [tokenizer(text)["input_ids"][: options.tokens] for text in texts]
    decoder = CpuDecoder(model, window=options.tokens, max_slots=1)
    mine = 0.0
    for row in ids:
        mine += loss(torch.as_tensor(decoder.step([0], [row], all_logits=True).logits[0]), row)
        decoder.free(0)
    exact, theirs = reference(model), 0.0
    with torch.inference_mode():
        for row in ids:
            theirs += loss(exact(torch.tensor([row]), use_cache=False).logits[0], row)
    count = sum(len(row) - 1 for row in ids)
    a, b = math.exp(mine / count), math.exp(theirs / count)
    print(f"{count:,} tokens: in place {a:.4f}, transformers in fp32 {b:.4f} ({a / b - 1:+.3%})")


if __name__ == "__main__":
    main()
