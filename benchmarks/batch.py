"""Print tokens per second of eight prompts as one batch, against the same prompts one after another.

    python benchmarks/batch.py [--model NAME] [--tokens 64]

The baseline is ChatLocal with one call at a time, in the same run; plain `transformers.generate`, one prompt
at a time, is printed as well. The target is a ratio of at least 3. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from llms import ChatLocal

SUBJECTS = ("a river", "a clock", "a baker", "a storm", "a library", "a train", "a garden", "a violin")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0, max_tokens=options.tokens)
    prompts = [f"Write a long story about {subject}." for subject in SUBJECTS]
    runtime = chat.runtime()
    chat.invoke("Hi", max_tokens=2)

    def count(answers: list[object]) -> int:
        return sum(a.usage_metadata["output_tokens"] for a in answers)  # type: ignore[attr-defined]

    rates = {}
    began = time.perf_counter()
    rates["one after another"] = count([chat.invoke(p) for p in prompts]) / (time.perf_counter() - began)
    runtime.engine.clear_cache()
    began = time.perf_counter()
    rates["one batch"] = count(chat.batch(prompts)) / (time.perf_counter() - began)
    began, tokens = time.perf_counter(), 0
    for prompt in prompts:
        ids = torch.tensor([runtime.prompt_ids(chat._convert_input(prompt).to_messages())])
        out = runtime.loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.tokens, do_sample=False
        )
        tokens += out.shape[1] - ids.shape[1]
    rates["generate, one after another"] = tokens / (time.perf_counter() - began)
    for name, rate in rates.items():
        print(f"{name:28} {rate:7.1f} tokens/s")
    ratio = rates["one batch"] / rates["one after another"]
    print(json.dumps({"benchmark": "batch", "ratio": ratio, "target": 3.0, **rates}))


if __name__ == "__main__":
    main()
