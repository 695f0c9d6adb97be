"""Print tokens per second of ChatLocal.stream, against plain `transformers.generate` on the same model.

    python benchmarks/wrapper.py [--model NAME] [--tokens 96] [--rounds 5]

`generate` runs on the very model that ChatLocal has loaded, with the same prompt and number of tokens, in
alternation. The target is a median ratio of at least 0.95. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from llms import ChatLocal

PROMPT = "Write a long story about a lighthouse keeper who finds a map."


def stream_rate(chat: ChatLocal, tokens: int) -> float:
    """Return tokens per second of ChatLocal.stream, including prefill."""
    began, count = time.perf_counter(), 0
    for chunk in chat.stream(PROMPT, max_tokens=tokens):
        count += chunk.usage_metadata["output_tokens"] if chunk.usage_metadata else 0
    return count / (time.perf_counter() - began)


def generate_rate(runtime: Any, ids: list[int], tokens: int) -> float:
    """Return tokens per second of generate on the same model, including prefill."""
    prompt = torch.tensor([ids], device=runtime.loaded.device)
    began = time.perf_counter()
    out = runtime.loaded.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False
    )
    return float((out.shape[1] - len(ids)) / (time.perf_counter() - began))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0)
    runtime = chat.runtime()
    ids = runtime.prompt_ids([chat._convert_input(PROMPT).to_messages()[0]])
    stream_rate(chat, 4), generate_rate(runtime, ids, 4)
    rows = []
    for _ in range(options.rounds):
        runtime.engine.clear_cache()  # the baseline has no prefix cache
        rows.append((stream_rate(chat, options.tokens), generate_rate(runtime, ids, options.tokens)))
    ratios = [ours / theirs for ours, theirs in rows]
    print("ChatLocal.stream  generate  ratio")
    for (ours, theirs), ratio in zip(rows, ratios, strict=True):
        print(f"{ours:16.1f}  {theirs:8.1f}  {ratio:5.3f}")
    result = {"benchmark": "wrapper", "ratio": statistics.median(ratios), "target": 0.95}
    print(json.dumps({**result, "tokens_per_s": statistics.median(r[0] for r in rows)}))


if __name__ == "__main__":
    main()
