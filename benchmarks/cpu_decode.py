"""Print speed and perplexity of the CPU decoder on the embedded model, against `transformers.generate`.

    python benchmarks/cpu_decode.py [--rounds 3] [--data FOLDER]

The baseline is `generate` on the same weights in the same run; the rounds alternate between all rows. The
other rows are the reference decoder, and the CPU decoder with the kernels of every instruction set that this
CPU has. (Version 0.1 had a row "operators" for a forward pass of PyTorch's operators, which no longer
exists.) PyTorch's own kernels take the best instruction set. To see what `generate` does on a CPU that has
only AVX2, put `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` before the command.

With `--data FOLDER`, perplexity on the texts of that folder is measured too, with weights as `transformers`
reads them and as the kernels do. The targets are 3 times the tokens per second at batch 1, nothing slower
than the reference decoder, and a perplexity within 1 %. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llms.decoders.base import Decoder
from llms.decoders.cpu.decoder import CpuDecoder
from llms.decoders.cpu.native import SETS, self_test
from llms.decoders.cpu.native import load as load_kernels
from llms.decoders.cpu.weights import BlockFile
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.sampling import Sampling
from llms.models.load import LoadSettings, load
from llms.models.loaded import LoadedModel

TEXT = "The river rises in the mountains and flows through three countries before it reaches the sea. " * 60
EXCERPT = 512
"""Tokens of a text whose perplexity is measured."""


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decode(decoder: Decoder, prompts: list[list[int]], new: int) -> None:
    """Decode all prompts greedily in one batch."""
    slots, sampling = list(range(len(prompts))), [Sampling()] * len(prompts)
    for slot in slots:
        decoder.free(slot)
    tokens = decoder.step(slots, prompts, sampling).tokens
    for _ in range(new - 1):
        assert tokens is not None
        tokens = decoder.step(slots, tokens, sampling).tokens


def generate(model: Any, prompts: list[list[int]], new: int) -> None:
    """Do the same with transformers."""
    ids = torch.tensor(prompts)
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
    )


def score(decoder: Decoder, rows: list[list[int]]) -> None:
    """Prefill rows of several lengths in one step, as scoring does."""
    for slot in range(len(rows)):
        decoder.free(slot)
    decoder.step(list(range(len(rows))), rows)


def speeds(loaded: LoadedModel, ids: list[int], rounds: int, new: int) -> dict[str, dict[str, float]]:
    """Return median seconds: case -> program or decoder -> time."""
    model = loaded.model
    eight = [ids[i : i + 128] for i in range(8)]
    ragged = [ids[i : i + 24 + 5 * i] for i in range(16)]
    decoders: dict[str, Decoder] = {"reference": ReferenceDecoder(model)} | cpu_decoders(loaded)
    cases: dict[str, dict[str, Callable[[], object]]] = {
        "first token, prompt 512": {"generate": lambda: generate(model, [ids[:512]], 1)},
        f"batch 1, prompt 128, {new} new": {"generate": lambda: generate(model, eight[:1], new)},
        f"batch 8, prompt 128, {new} new": {"generate": lambda: generate(model, eight, new)},
        "score 16 rows of 24 to 99": {},
    }
    first, one, many, scored = cases.values()
    for name, decoder in decoders.items():
        first[name] = partial(decode, decoder, [ids[:512]], 1)
        one[name] = partial(decode, decoder, eight[:1], new)
        many[name] = partial(decode, decoder, eight, new)
        scored[name] = partial(score, decoder, ragged)
    times: dict[str, dict[str, list[float]]] = {case: {who: [] for who in by} for case, by in cases.items()}
    for case, by in cases.items():
        for who in [*by, *list(by) * rounds]:
            times[case][who].append(seconds(by[who]))
    return {case: {who: statistics.median(t[1:]) for who, t in by.items()} for case, by in times.items()}


def cpu_decoders(loaded: LoadedModel) -> dict[str, Decoder]:
    """Return the CPU decoder by instruction set, best first; none in an installation without native code."""
    blocks = BlockFile(loaded.checkpoint.folder) if loaded.checkpoint else None
    names = [one.name for one in SETS if not isinstance(load_kernels(one.name), str)]
    return {name: CpuDecoder(loaded.weights, blocks=blocks, instructions=name) for name in names}


def start(loaded: LoadedModel) -> dict[str, float]:
    """Return the seconds of work done once: the self-test at installation, and packing the weights."""
    once = {}
    for one in SETS:
        if not isinstance(kernels := load_kernels(one.name), str):
            once[f"self-test {one.name}"] = seconds(partial(self_test, kernels.forward))
    if once:
        once["pack"] = seconds(lambda: CpuDecoder(loaded.weights))
    return once


def perplexities(loaded: LoadedModel, folder: Path, texts: int) -> dict[str, float]:
    """Return the perplexity of each decoder on the beginnings of some texts of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".rst", ".txt", ".md"))
    readers: dict[str, Decoder] = {"reference": ReferenceDecoder(loaded.model)} | cpu_decoders(loaded)
    sums = dict.fromkeys(readers, 0.0)
    count = 0
    for path in files[:: max(1, len(files) // texts)][:texts]:
        ids = loaded.tokenizer(path.read_text(encoding="utf-8")[: 8 * EXCERPT])["input_ids"][:EXCERPT]
        taken = torch.tensor(ids[1:])
        count += len(taken)
        for name, decoder in readers.items():
            chosen = forced(decoder, ids)[:-1].log_softmax(-1).gather(1, taken[:, None])
            sums[name] -= float(chosen.sum())
    return {name: math.exp(total / count) for name, total in sums.items()}


def forced(decoder: Decoder, ids: list[int]) -> Tensor:
    """Return the logits after every token, fp32 [len(ids), V]."""
    decoder.free(0)
    return torch.as_tensor(decoder.step([0], [ids], all_logits=True).logits[0])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=64, help="tokens to decode")
    parser.add_argument("--data", type=Path, help="a folder of texts: measure perplexity too")
    parser.add_argument("--texts", type=int, default=24)
    options = parser.parse_args()
    loaded = load(LoadSettings(model=options.model, dtype=options.dtype, device="cpu"))
    ids = loaded.tokenizer(TEXT)["input_ids"]
    result: dict[str, Any] = {
        "benchmark": "cpu_decode",
        "threads": torch.get_num_threads(),
        "pytorch": torch.backends.cpu.get_cpu_capability(),
    }
    if options.data:
        result["perplexity"] = perplexities(loaded, options.data, options.texts)
        for who, value in result["perplexity"].items():
            print(f"perplexity, {who:20} {value:9.4f}")
    if options.rounds:
        result["start"] = start(loaded)
        print("  ".join(f"{name} {value:.2f}" for name, value in result["start"].items()))
        result["seconds"] = speeds(loaded, ids, options.rounds, options.new)
        for case, by in result["seconds"].items():
            base = by.get("generate", by["reference"])
            print(case)
            for who, s in by.items():
                print(f"    {who:12} {s * 1e3:9.1f} ms  x{base / s:5.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
