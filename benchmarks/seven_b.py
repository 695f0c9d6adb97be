"""Write a checkpoint folder with Mistral-7B's shapes and random weights, for benchmarks of speed and memory.

    python benchmarks/seven_b.py FOLDER [--layers 8] [--tiny]

It contains safetensors shards of bf16 weights (14.5 GB with 32 layers), config.json, and a byte tokenizer
with a chat template. `--tiny` writes a small copy for rehearsals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TINY = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}
TINY |= {"head_dim": 32, "vocab_size": 512}
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
LAYERS_A_SHARD = 8


def write_checkpoint(folder: Path, *, layers: int, tiny: bool = False) -> None:
    """Write the checkpoint. The weights are drawn on the GPU if there is one."""
    import torch
    from safetensors.torch import save_file
    from transformers import MistralConfig, MistralForCausalLM

    from llms.decoders.cuda.synthetic import MISTRAL_7B

    sizes: dict[str, Any] = MISTRAL_7B | (TINY if tiny else {}) | {"num_hidden_layers": layers}
    config = MistralConfig(**sizes, dtype=torch.bfloat16)
    config.architectures = ["MistralForCausalLM"]
    with torch.device("meta"):
        names = {name: weight.shape for name, weight in MistralForCausalLM(config).state_dict().items()}
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards: dict[int, list[str]] = {}
    for name in names:
        layer = int(name.split(".")[2]) if ".layers." in name else layers
        shards.setdefault(layer // LAYERS_A_SHARD, []).append(name)
    index: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, members in enumerate(shards.values(), 1):
        tensors = {name: _weight(name, names[name], device) for name in members}
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(members, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _weight(name: str, shape: tuple[int, ...], device: str) -> Any:
    import torch

    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02).cpu()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[-1])
    fast.chat_template = TEMPLATE
    return fast


def main() -> None:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    write_checkpoint(args.folder, layers=args.layers, tiny=args.tiny)


if __name__ == "__main__":
    main()
