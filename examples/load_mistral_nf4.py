"""Mistral-7B in 4-bit NF4: the usual recipe of transformers, and the same through this toolkit, side by side.

    python examples/load_mistral_nf4.py                # the embedded model, for machines without a GPU
    python examples/load_mistral_nf4.py mistral-7b     # after `agent models pull mistral-7b`

Both ways compute the same logits. Ours adds what the recipe leaves to you: it never touches the network,
refuses pickles and code in configurations, says where the model runs and why, plans the memory first, keeps
the 4-bit weights for the next start, and is a LangChain chat model. How long each takes, and how much memory:
benchmarks/load.py.
"""

import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from llms import ChatLocal, ChatMistralNF4
from llms.models.load import LoadSettings, load


def the_usual_recipe(folder: str) -> tuple[Any, Any]:
    """Quantize with bitsandbytes while loading, as the article does."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="auto")
    return model, tokenizer


def main() -> None:
    """Load both ways, compare the logits of one prompt, then ask a question."""
    name = sys.argv[1] if len(sys.argv) > 1 else "auto"
    logging.disable_progress_bar()
    ours = load(
        LoadSettings(model=name, quantization="nf4", notify=lambda line: print(line, file=sys.stderr))
    )
    assert ours.memory is not None and ours.checkpoint is not None
    print(
        f"ours: {ours.name}, {ours.quantization} on {ours.device}, window {ours.window:,} tokens, planned "
        f"{ours.memory.total / 1e9:.1f} of {ours.memory.free / 1e9:.1f} GB"
    )
    model, tokenizer = the_usual_recipe(str(ours.checkpoint.folder))
    print(f"the usual recipe: {model.get_memory_footprint() / 1e9:.1f} GB of weights on {model.device}")

    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"].to(ours.device)
    with torch.inference_mode():
        difference = (model(tokens).logits - ours.model(tokens).logits).abs().max().item()
    print(f"largest difference of a logit: {difference:g}")

    # A model that is loaded already becomes a chat model of LangChain's, and so does a name.
    chat = ChatLocal.from_model(model, tokenizer, temperature=0, max_tokens=24)
    print("from_model:", chat.invoke("What is the capital of France?").content)
    by_name = ChatLocal(model=name, quantization="nf4", temperature=0, max_tokens=24)
    if name == "mistral-7b":
        by_name = ChatMistralNF4(temperature=0, max_tokens=24)  # the same, said shorter
    print("by name:", by_name.invoke("What is the capital of France?").content)


if __name__ == "__main__":
    main()
