"""Print speed, start and memory of the CUDA decoder on this GPU, against `transformers.generate`.

    python benchmarks/decode.py                                # needs a CUDA GPU
    python benchmarks/decode.py --acceptance FILE --data DATA  # on the CPU: acceptance of drafts
    python benchmarks/decode.py --replay FILE                  # on the GPU: what that costs and gains

The model has Mistral-7B's shapes and random weights in NF4, and decoding is greedy. The baseline is
`generate` with bitsandbytes in the same run; figures of llama.cpp, measured earlier, are printed next to it.
Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

GOALS = {1: 580, 8: 4000, 32: 10_000, 64: 14_000}
LLAMA_CPP = {1: 278, 8: 1024, 32: 3449, 64: 4812}
"""llama.cpp (2026, Q4_K_M of the same shapes, flash attention), measured before on an H100."""
PROMPT, NEW = 128, 256


def timed(work: Callable[[], Any], repeat: int = 5) -> float:
    """Return the median time of `work` in seconds, by device events."""
    times = []
    for _ in range(repeat):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def copy_bandwidth() -> float:
    """Return the device's copy rate in bytes per second, counting bytes read and bytes written."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source))


def generate_rate(model: Any, batch: int, new: int = 24) -> float:
    """Return tokens per second of plain `generate`, without its prefill."""
    ids = torch.randint(0, 32_000, (batch, PROMPT), device="cuda")
    mask = torch.ones_like(ids)

    def run(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    run(2)
    short = run(2)
    return batch * (new - 2) / (run(new) - short)


def fill(decoder: Any, batch: int, length: int) -> None:
    """Prefill `batch` slots with random tokens."""
    for slot in range(decoder.max_slots):
        decoder.free(slot)
    for slot in range(batch):
        decoder.prefill(slot, torch.randint(0, 32_000, (length,)).tolist())


def decode_rate(decoder: Any, batch: int, prompt: int, new: int) -> float:
    """Return tokens per second through `step`; each step gets the tokens of the previous one on the GPU."""
    from llms.decoders.sampling import Sampling

    slots, how = list(range(batch)), [Sampling()] * batch
    fill(decoder, batch, prompt)
    tokens = decoder.step(slots, [[5]] * batch, how).tokens
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(new):
        tokens = decoder.step(slots, tokens, how).tokens
    torch.cuda.synchronize()
    return batch * new / (time.perf_counter() - began)


def bare_linears(tokens: int) -> float:
    """Return the seconds that the linear layers of one forward pass take as bf16 cuBLAS calls."""
    shapes = [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)]
    inputs = {k: torch.randn(tokens, k, dtype=torch.bfloat16, device="cuda") for k in (4096, 14_336)}
    weights = [torch.randn(n, k, dtype=torch.bfloat16, device="cuda") for n, k in shapes]

    def layers() -> None:
        for _ in range(32):
            for w in weights:
                torch.mm(inputs[w.shape[1]], w.t())

    layers()
    return timed(layers, 3)


def start_seconds(model: Any, cache: Path) -> tuple[Any, dict[str, float]]:
    """Repack, compile and capture; return the decoder and the seconds of each part."""
    from llms.decoders.cuda.decoder import CudaDecoder
    from llms.models.weights import weights_of

    torch.cuda.synchronize()
    began = time.perf_counter()
    decoder = CudaDecoder(weights_of(model), max_slots=64, window=8192, cache_tokens=64 * 640, cache=cache)
    torch.cuda.synchronize()
    built = time.perf_counter()
    for bucket in decoder.graphs.buckets:
        decoder.graphs.capture(bucket)
    torch.cuda.synchronize()
    return decoder, {"repack_compile_s": built - began, "capture_s": time.perf_counter() - built}


def measure(cache: Path, replay: Path | None) -> dict[str, Any]:
    """Run everything on the GPU."""
    import bitsandbytes
    import transformers

    from llms.decoders.cuda.synthetic import synthetic_model

    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
        "transformers": transformers.__version__, "bitsandbytes": bitsandbytes.__version__,
        "copy_TBps": copy_bandwidth() / 1e12, "bare_linears_4096_s": bare_linears(4096),
    }  # fmt: skip
    torch.cuda.empty_cache()
    began = time.perf_counter()
    model = synthetic_model("cuda")
    torch.cuda.synchronize()
    result["synthetic_model_s"] = time.perf_counter() - began
    result["generate"] = {b: generate_rate(model, b) for b in (1, 8, 32)}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    decoder, result["start"] = start_seconds(model, cache)
    result["decode"] = {b: decode_rate(decoder, b, PROMPT, NEW) for b in (1, 2, 4, 8, 16, 32, 64)}
    result["decode_depth_4096"] = decode_rate(decoder, 1, 4096, 64)
    result["prefill_4096_s"] = prefill_seconds(decoder)
    used = decoder.weights.nbytes + decoder.pool.numel() * 2
    result["weights_GB"], result["cache_GB"] = decoder.weights.nbytes / 1e9, decoder.pool.numel() * 2 / 1e9
    result["other_memory_MB"] = (torch.cuda.memory_reserved() - used) / 2**20
    result["peak_other_memory_MB"] = (torch.cuda.max_memory_reserved() - used) / 2**20
    step_bytes = decoder.weights.step_bytes
    result["share_of_copy_rate"] = result["decode"][1] * step_bytes / 1e12 / result["copy_TBps"]
    result["verify"] = verify_costs(decoder)
    del decoder
    torch.cuda.empty_cache()
    result["second_start"] = start_seconds(synthetic_model("cuda"), cache)[1]
    if replay:
        result["speculation"] = replayed(json.loads(replay.read_text()), result["verify"])
    return result


def prefill_seconds(decoder: Any) -> float:
    """Return the time of a 4,096-token prompt in seconds."""
    ids = torch.randint(0, 32_000, (4096,)).tolist()

    def once() -> None:
        decoder.free(0)
        decoder.prefill(0, ids)

    once()
    return timed(once, 5)


def verify_costs(decoder: Any) -> dict[int, float]:
    """Return the seconds of a step of 1 to 8 tokens of one slot at depth 1,024, sampled on the host."""
    from llms.decoders.sampling import Sampling, sample

    costs = {}
    for count in (1, 2, 4, 8):
        fill(decoder, 1, 1024)

        def step(count: int = count) -> None:
            result = decoder.step([0], [[7] * count], all_logits=True)
            sample(result.logits[0], [Sampling()] * count, range(count)).tolist()
            decoder.truncate(0, 1024)

        step()
        costs[count] = timed(step, 30)
    return costs


def replayed(acceptance: dict[str, Any], costs: dict[int, float]) -> dict[str, Any]:
    """Return tokens per step, the cost relative to plain steps, and the gain, for each kind of text."""
    report = {}
    for kind, runs in acceptance.items():
        tokens = sum(sum(kept for _, kept in run) for run in runs)
        spent = sum(costs[next(c for c in costs if c >= 1 + guessed)] for run in runs for guessed, _ in run)
        steps = sum(len(run) for run in runs)
        report[kind] = {
            "tokens_a_step": tokens / steps, "cost_of_a_step": spent / steps / costs[1],
            "gain": tokens * costs[1] / spent,
        }  # fmt: skip
    return report


def print_table(result: dict[str, Any]) -> None:
    """Print the figures next to those of llama.cpp and the goals."""
    print(f"{result['gpu']}, torch {result['torch']}, bitsandbytes {result['bitsandbytes']}, random weights")
    print(f"copy rate {result['copy_TBps']:.2f} TB/s; batch 1 uses {result['share_of_copy_rate']:.0%} of it")
    print(f"{'batch':>6}{'generate':>10}{'llama.cpp*':>12}{'fast':>9}{'goal':>8}{'x generate':>12}")
    for batch, rate in result["decode"].items():
        plain = result["generate"].get(batch)
        cells = (plain and f"{plain:.1f}", LLAMA_CPP.get(batch), f"{rate:.0f}", GOALS.get(batch))
        ratio = f"{rate / plain:.0f}" if plain else ""
        print(
            f"{batch:>6}{cells[0] or '':>10}{cells[1] or '':>12}{cells[2]:>9}{cells[3] or '':>8}{ratio:>12}"
        )
    print("* measured before on the same GPU and shapes, Q4_K_M")
    print(f"batch 1 at depth 4,096: {result['decode_depth_4096']:.0f} tokens/s (goal 500)")
    ratio = result["prefill_4096_s"] / result["bare_linears_4096_s"]
    print(f"prefill of 4,096: {result['prefill_4096_s'] * 1e3:.0f} ms, {ratio:.2f}x the bare bf16 products")
    print(f"start: {result['start']}, the second {result['second_start']}")
    print(f"other memory {result['peak_other_memory_MB']:.0f} MB at the peak")
    for kind, row in result.get("speculation", {}).items():
        print(f"speculation, {kind}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--acceptance", type=Path, help="measure acceptance on the CPU and write it to this file"
    )
    parser.add_argument("--data", type=Path, help="folder with peps/ and peps_questions.jsonl")
    parser.add_argument("--seconds", type=float, default=240, help="how long --acceptance decodes")
    parser.add_argument("--replay", type=Path, help="a file that --acceptance wrote")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mistral-agent" / "kernels")
    options = parser.parse_args()
    if options.acceptance:
        from decode_acceptance import measure_acceptance

        report = measure_acceptance(options.data, options.seconds)
        options.acceptance.write_text(json.dumps(report))
        for kind, runs in report.items():
            steps = [kept for run in runs for _, kept in run]
            print(f"{kind}: {sum(steps) / len(steps):.2f} tokens per step over {len(runs)} texts")
        return
    if not torch.cuda.is_available():
        raise SystemExit("expected a CUDA GPU, found none: run this on the machine that has one")
    result = measure(options.cache, options.replay)
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
