"""GGUF files in place: tokens a second of decoding, prefill and batches, beside llama.cpp in the same run.

    python benchmarks/gguf_decode.py FILE.gguf ... [--llamacpp PYTHON] [--mistral FOLDER] [--threads 2]

Each file is measured in a process of its own, ours and llama.cpp's by turns, and the best of `--rounds`
counts. PYTHON is an interpreter of an environment that has llama-cpp-python, built from source with its
native flags. `--mistral` writes a file of Mistral-7B's shapes with random Q4_K_M blocks (4.4 GB) into FOLDER
first. The rate at which this machine reads memory is measured in the same run: a token cannot be faster
than one reading of the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

STEPS, PROMPT, BATCH = 48, 512, 8

THEIRS = """
import json, sys, time
import llama_cpp
from llama_cpp import Llama

path, threads, steps, prompt, batch = sys.argv[1], *map(int, sys.argv[2:6])
model = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
ids = [7919 * i % 20000 + 300 for i in range(prompt)]
model.eval(ids[:40])
start = time.perf_counter()
for i in range(steps):
    model.eval([ids[i]])
decode = steps / (time.perf_counter() - start)
model.reset()
start = time.perf_counter()
model.eval(ids)
prefill = prompt / (time.perf_counter() - start)
p = llama_cpp.llama_context_default_params()
p.n_ctx, p.n_batch, p.n_seq_max, p.n_threads, p.n_threads_batch = 2048, 512, batch, threads, threads
context = llama_cpp.llama_init_from_model(model._model.model, p)
rows = llama_cpp.llama_batch_init(512, 0, 1)
def feed(tokens, at):  # the same tokens to every sequence, from position `at` on
    for i, (s, k) in enumerate((s, k) for s in range(batch) for k in range(len(tokens))):
        rows.token[i], rows.pos[i], rows.n_seq_id[i], rows.seq_id[i][0] = tokens[k], at + k, 1, s
        rows.logits[i] = k == len(tokens) - 1
    rows.n_tokens = batch * len(tokens)
    assert llama_cpp.llama_decode(context, rows) == 0
    llama_cpp.llama_get_logits_ith(context, rows.n_tokens - 1)[0]
feed(ids[:40], 0)
start = time.perf_counter()
for i in range(steps // 4):
    feed([ids[i]], 40 + i)
many = batch * (steps // 4) / (time.perf_counter() - start)
print(json.dumps({"decode": decode, "prefill": prefill, "batch": many}))
"""
"""llama.cpp's side; it prints one line of JSON."""


def ours(path: str, threads: int) -> dict[str, float]:
    """Return our tokens a second, and how much the process grew, in bytes."""
    import psutil
    import torch

    from llms.decoders.cpu.decoder import CpuDecoder
    from llms.models.gguf_model import GgufModel

    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    decoder = CpuDecoder(GgufModel.open(Path(path)), window=2048, max_slots=BATCH)
    loaded = time.perf_counter() - start
    ids = [7919 * i % 20_000 + 300 for i in range(PROMPT)]
    decoder.prefill(0, ids[:40])
    first = time.perf_counter() - start
    grown = psutil.Process().memory_info().rss - before
    start = time.perf_counter()
    for token in ids[:STEPS]:
        decoder.step([0], [[token]])
    decode = STEPS / (time.perf_counter() - start)
    decoder.free(0)
    start = time.perf_counter()
    decoder.prefill(0, ids)
    prefill = PROMPT / (time.perf_counter() - start)
    for slot in range(BATCH):
        decoder.free(slot)
        decoder.prefill(slot, ids[:40])
    start = time.perf_counter()
    for token in ids[: STEPS // 4]:
        decoder.step(list(range(BATCH)), [[token]] * BATCH)
    batch = BATCH * (STEPS // 4) / (time.perf_counter() - start)
    rates = {"decode": decode, "prefill": prefill, "batch": batch}
    return rates | {"load_s": loaded, "first_s": first, "grown": grown}


def read_rate(threads: int, size: int = 2**29) -> float:
    """Return how many bytes a second all threads together read from memory."""
    arrays = [np.ones(size // 4 // threads, np.float32) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda array: float(np.dot(array, array)), arrays))
            best = max(best, size / (time.perf_counter() - start))
    return best


def token_bytes(path: str) -> int:
    """Return the bytes of the matrices that one token reads."""
    from llms.models.gguf_model import GgufModel

    return sum(tensor.size or 0 for tensor in GgufModel.open(Path(path)).matrices)


def write_mistral(path: Path) -> None:
    """Write a file of Mistral-7B's shapes with random blocks of the types of Q4_K_M."""
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    width, inner, layers, heads, kv_heads, words = 4096, 14_336, 32, 32, 8, 32_768
    random, writer = np.random.default_rng(0), GGUFWriter(path, "llama")

    def blocks(kind: GGMLQuantizationType, rows: int, columns: int) -> np.ndarray[Any, Any]:
        count, (weights, size) = 4096, GGML_QUANT_SIZES[kind]
        raw = random.integers(0, 256, (count, size), np.uint8)
        scales = (
            random.uniform(0.5, 1, (count, 2)) * (4e-5 if size == 210 else np.array([2e-4, 1.5e-3]))
        ).astype(np.float16)
        if size == 210:
            raw[:, 208:] = scales[:, :1].view(np.uint8)
        else:
            raw[:, :4] = scales.view(np.uint8)
        total = rows * columns // weights
        return np.tile(raw, (-(-total // count), 1))[:total].reshape(rows, -1)

    writer.add_context_length(32_768)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model("llama")
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    writer.add_token_list(["<unk>", "<s>", "</s>", *bytes_, *(f"w{i}" for i in range(words - 259))])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(words - 259)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (words - 259))
    q4, q6 = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K

    def add(name: str, kind: GGMLQuantizationType, rows: int, columns: int) -> None:
        writer.add_tensor(f"{name}.weight", blocks(kind, rows, columns), raw_dtype=kind)

    add("token_embd", q4, words, width)
    add("output", q6, words, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for index in range(layers):
        more = q6 if index < layers // 8 or index >= 7 * layers // 8 or index % 3 == 2 else q4
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{index}.{norm}.weight", np.ones(width, np.float32))
        dim = width // heads
        for part, kind, rows, columns in (
            ("attn_q", q4, width, width), ("attn_k", q4, kv_heads * dim, width),
            ("attn_v", more, kv_heads * dim, width), ("attn_output", q4, width, width),
            ("ffn_gate", q4, inner, width), ("ffn_up", q4, inner, width), ("ffn_down", more, width, inner),
        ):  # fmt: skip
            add(f"blk.{index}.{part}", kind, rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def child(command: list[str]) -> dict[str, float]:
    """Run a command and return the JSON of its last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the best of several runs: the highest rates, and the lowest times and sizes."""
    lower = ("load_s", "first_s", "grown")
    return {key: (min if key in lower else max)(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Measure the files and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--llamacpp", metavar="PYTHON")
    parser.add_argument("--mistral", metavar="FOLDER", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.one, options.threads)))
        return
    files = list(options.files)
    if options.mistral:
        path = options.mistral / "mistral-7b-shapes-q4_k_m.gguf"
        if not path.exists():
            write_mistral(path)
        files.append(str(path))
    for file in files:
        rate, mine, theirs = read_rate(options.threads), [], []
        for _ in range(options.rounds):
            mine.append(child([sys.executable, __file__, "--one", file, "--threads", str(options.threads)]))
            if options.llamacpp:
                numbers = map(str, (options.threads, STEPS, PROMPT, BATCH))
                theirs.append(child([options.llamacpp, "-c", THEIRS, file, *numbers]))
        rate, a = max(rate, read_rate(options.threads)), best(mine)
        bytes_ = token_bytes(file)
        print(
            f"{Path(file).name}: reads {bytes_ / 1e6:.0f} MB a token; memory {rate / 1e9:.1f} GB/s\n"
            f"  ours:      decode {a['decode']:.1f} ({a['decode'] * bytes_ / rate:.0%} of the read rate), "
            f"prefill {a['prefill']:.0f}, batch of {BATCH} {a['batch']:.0f} tokens/s; loaded in "
            f"{a['load_s']:.2f} s, first token {a['first_s']:.2f} s, grown {a['grown'] / 1e6:.0f} MB of "
            f"{Path(file).stat().st_size / 1e6:.0f}"
        )
        if theirs:
            b = best(theirs)
            print(
                f"  llama.cpp: decode {b['decode']:.1f} (ours {a['decode'] / b['decode']:.2f} times), "
                f"prefill {b['prefill']:.0f} ({a['prefill'] / b['prefill']:.2f} times), "
                f"batch {b['batch']:.1f} "
                f"({a['batch'] / b['batch']:.2f} times)"
            )


if __name__ == "__main__":
    main()
