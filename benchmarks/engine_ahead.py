"""Print tokens per second of whole requests on the CUDA decoder, against bare replays of a step's graph.

    python benchmarks/engine_ahead.py                                  # needs a CUDA GPU
    python benchmarks/engine_ahead.py --batches 1 --replay FILE

Random weights of Mistral-7B's shapes, prompts of 128 tokens, 256 new tokens, greedy, every token detokenized.
For each batch size there are three rates: with the host in turn (it reads the tokens of each step before it
launches the next), with steps launched ahead, and of bare graph replays at the same depth. With `--replay`,
the gain of drafts is printed too, from the acceptance that `decode.py --acceptance` measured and the step
times measured here. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROMPT, NEW = 128, 256


def tokenizer(size: int) -> Callable[[list[int]], str]:
    """Return the `decode` of a tokenizer of `size` byte-level words, which costs as much as a real one."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {f"Ġw{i:x}" if i % 3 else f"{i:x}": i for i in range(size)}
    plain = Tokenizer(models.BPE(words, []))
    plain.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(tokenizer_object=plain)
    return lambda ids: str(whole.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def request(decode: Callable[[list[int]], str], new: int) -> Any:
    """Return one request with a random prompt."""
    from llms.engine.request import GenerationRequest

    prompt = tuple(torch.randint(0, 32_000, (PROMPT,)).tolist())
    return GenerationRequest(prompt=prompt, max_tokens=new, decode=decode, run_ahead=0)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until the engine's thread has come so far."""
    while not holds():
        time.sleep(0.0002)


def engine_rate(decoder: Any, decode: Callable[[list[int]], str], batch: int, ahead: bool) -> float:
    """Return tokens per second of `batch` requests, from when all have begun until the first has ended."""
    from llms.engine.engine import Engine

    for slot in range(decoder.max_slots):
        decoder.free(slot)
    decoder.runs_ahead, decoder.max_draft = ahead, 0
    engine = Engine(decoder, max_batch=batch)
    streams = engine.submit_all([request(decode, NEW + 2 * batch) for _ in range(batch)])
    wait_until(lambda: all(h.generated for h in streams))
    torch.cuda.synchronize()
    before, began = sum(len(h.generated) for h in streams), time.perf_counter()
    enough = before + batch * (NEW - 4)
    wait_until(lambda: sum(len(h.generated) for h in streams) >= enough)
    seconds = time.perf_counter() - began
    made = sum(len(h.generated) for h in streams) - before
    engine.close()
    return made / seconds


def replay_rate(decoder: Any, batch: int, repeat: int = 50) -> float:
    """Return tokens per second of bare replays at half of the requests' depth."""
    from llms.decoders.sampling import Sampling

    for slot in range(decoder.max_slots):
        decoder.free(slot)
    for slot in range(batch):
        decoder.prefill(slot, torch.randint(0, 32_000, (PROMPT + NEW // 2,)).tolist())
    decoder.step(list(range(batch)), [[5]] * batch, [Sampling()] * batch)
    bucket = next(b for b in decoder.graphs.buckets if b >= batch)
    for _ in range(5):
        decoder.graphs.replay(bucket)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeat):
        decoder.graphs.replay(bucket)
    end.record()
    torch.cuda.synchronize()
    return float(batch * repeat * 1e3 / begin.elapsed_time(end))


def step_seconds(decoder: Any, decode: Callable[[list[int]], str], kind: str, steps: int = 100) -> float:
    """Return the seconds per step of one request: `ahead`, `plain` (in turn) or `verify` (with a draft)."""
    from llms.engine.engine import Engine
    from llms.engine.speculation import AcceptanceTracker, Ngrams

    pays, propose = AcceptanceTracker.pays, Ngrams.propose
    AcceptanceTracker.pays = lambda self: kind != "ahead"  # type: ignore[method-assign]
    Ngrams.propose = lambda self, most: [9] * (min(7, most) if kind == "verify" else 0)  # type: ignore[method-assign]
    decoder.runs_ahead, decoder.max_draft = True, 7
    try:
        engine = Engine(decoder)
        stream = engine.submit(request(decode, 8 * (steps + 20)))
        wait_until(lambda: len(stream.generated) >= 10)
        torch.cuda.synchronize()
        before, began = engine.steps, time.perf_counter()
        wait_until(lambda: engine.steps >= before + steps)
        seconds = (time.perf_counter() - began) / steps
        engine.close()
        return seconds
    finally:
        AcceptanceTracker.pays, Ngrams.propose = pays, propose  # type: ignore[method-assign]


def gains(acceptance: dict[str, Any], price: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the gain of steps with drafts over steps launched ahead, for each kind of text.

    Args:
        acceptance: For each text, for each step: (drafted, produced); -1 drafted is a step launched ahead.
        price: Seconds of each kind of step.
    """
    found = {}
    for kind, runs in acceptance.items():
        steps = [step for run in runs for step in run]
        tokens, verified = sum(decided for _, decided in steps), sum(guessed > 0 for guessed, _ in steps)
        spent = sum(price["verify" if g > 0 else "plain" if g == 0 else "ahead"] for g, _ in steps)
        found[kind] = {
            "answers": float(len(runs)), "tokens_a_step": tokens / len(steps),
            "share_verified": verified / len(steps), "gain": tokens * price["ahead"] / spent,
        }  # fmt: skip
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", default="1,8,32,64", help="comma-separated")
    parser.add_argument("--replay", type=Path, help="file that decode.py --acceptance wrote")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mistral-agent" / "kernels")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("expected a CUDA GPU, found none: run this on the machine that has one")
    from llms.decoders.cuda.decoder import CudaDecoder
    from llms.decoders.cuda.synthetic import synthetic_model
    from llms.models.weights import weights_of

    decoder: Any = CudaDecoder(
        weights_of(synthetic_model("cuda")),
        max_slots=72,
        window=8192,
        cache_tokens=64 * 640,
        cache=options.cache,
    )
    decode = tokenizer(decoder.vocab_size)
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "batch": {}}
    print(f"{result['gpu']}, torch {result['torch']}, random weights, tokens a second")
    print(f"{'batch':>6}{'in turn':>10}{'ahead':>10}{'replay':>10}{'in turn':>9}{'ahead':>8} of the replay")
    for batch in map(int, options.batches.split(",")):
        engine_rate(decoder, decode, batch, True)
        turn, ahead = (engine_rate(decoder, decode, batch, how) for how in (False, True))
        bare = replay_rate(decoder, batch)
        result["batch"][batch] = {"in_turn": turn, "ahead": ahead, "replay": bare}
        print(f"{batch:>6}{turn:>10.0f}{ahead:>10.0f}{bare:>10.0f}{turn / bare:>9.1%}{ahead / bare:>8.1%}")
    for slot in range(decoder.max_slots):
        decoder.free(slot)
    price = {kind: step_seconds(decoder, decode, kind) for kind in ("ahead", "plain", "verify")}
    result["step_seconds"] = price
    print("a step alone, ms: " + ", ".join(f"{kind} {1e3 * value:.2f}" for kind, value in price.items()))
    if options.replay:
        result["speculation"] = gains(json.loads(options.replay.read_text()), price)
        for kind, row in result["speculation"].items():
            print(f"drafts, {kind}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
