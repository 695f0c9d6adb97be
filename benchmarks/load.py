"""Print time and peak memory of every way to load a model, against plain `from_pretrained`.

    python benchmarks/load.py                      # the embedded model on the CPU: bf16, NF4, NF4 kept
    python benchmarks/load.py --gpu [--layers 8]   # Mistral-7B's shapes with random weights

Imports are done before the clock starts. On a GPU, peak memory is `max_memory_reserved`, and the allocator is
emptied between the ways. On the CPU each way has a process of its own, and the peak is the increase of its
resident set. The logits are compared with those of `from_pretrained` with the same settings. The planned
memory is compared with the measured memory after a prompt that fills the window and, with `--turns`, after a
conversation that grows until it does. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llms.threads import configure_threads

PLAIN = ("plain", "plain nf4")
WAYS = (*PLAIN, "ours", "ours nf4", "ours nf4 kept")


def measure(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Load one way in this process; return seconds, bytes, and the logits of one prompt."""
    import torch
    from transformers import MistralForCausalLM

    from llms.models.load import LoadSettings, load, make_decoder
    from llms.quiet import quiet

    assert MistralForCausalLM is not None  # imported before the clock starts
    with quiet():
        import accelerate
        import bitsandbytes
    assert accelerate is not None and bitsandbytes is not None
    device, window = "cuda:0" if args.gpu else "cpu", args.window[0]
    tokens = [(7919 * i) % args.ids + 20 for i in range(window - 4)]
    probe = Memory(device)
    began = time.perf_counter()
    if way in PLAIN:
        model, loaded = plain(args.folder, device, nf4="nf4" in way), None
    else:
        spec = LoadSettings(
            model=str(args.folder),
            quantization="nf4" if "nf4" in way else "none",
            device=device,
            window=window,
            decoder=args.decoder,
            cache_dir=args.cache,
            keep_quantized="kept" in way,
        )
        loaded = load(spec)
        model = loaded.model
    seconds = time.perf_counter() - began
    loaded_bytes = probe.peak()
    with torch.inference_mode():
        logits = model(torch.tensor([tokens[:64]], device=device)).logits[0, -1].float().cpu()
    found = {"way": way, "window": window, "load_s": seconds, "load_bytes": loaded_bytes}
    if loaded is not None:
        assert loaded.memory is not None
        decoder = make_decoder(loaded, max_slots=64 if args.gpu else 1, kind=args.decoder)
        for _ in range(2):  # some decoders put work off until the second prefill
            decoder.free(0)
            decoder.prefill(0, tokens)
        decoder.step([0], [[5]])
        found |= {"decoder": decoder.describe(), "plan": asdict(loaded.memory)}
        found |= {"planned_bytes": loaded.memory.total}
    return found | {"peak_bytes": probe.peak(), "logits": logits.tolist()}


def plain(folder: Path, device: str, *, nf4: bool) -> Any:
    """Load with transformers alone; for NF4 with the usual settings."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from llms.quiet import quiet

    settings: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": None if device == "cpu" else "auto"}
    if nf4:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    with quiet():
        return AutoModelForCausalLM.from_pretrained(str(folder), **settings)


def converse(args: argparse.Namespace) -> dict[str, Any]:
    """Hold a conversation that outgrows the window; return its turns, what ended it, and the peak."""
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

    from llms import ChatLocal
    from llms.errors import ContextOverflow
    from llms.sharing import unload_all

    device, window = "cuda:0" if args.gpu else "cpu", args.window[0]
    probe = Memory(device)
    chat = ChatLocal(
        model=str(args.folder),
        quantization="nf4",
        device=device,
        window=window,
        decoder=args.decoder,
        cache_dir=args.cache,
        temperature=0,
        max_tokens=8,
    )
    messages: list[BaseMessage] = []
    words, turn, ended_by = "x" * (window * 4 // 3 // args.turns), 0, ""
    for turn in range(1, args.turns + 1):
        messages.append(HumanMessage(f"{turn} {words}"))
        try:
            messages.append(AIMessage(str(chat.invoke(messages).content)))
        except ContextOverflow as error:
            ended_by = str(error)
            break
    runtime = chat.runtime()
    assert runtime.loaded.memory is not None
    planned, peak = runtime.loaded.memory.total, probe.peak()
    unload_all()
    return {
        "turns": turn,
        "window": window,
        "load_s": runtime.loaded.load_s,
        "load_bytes": peak,
        "peak_bytes": peak,
        "planned_bytes": planned,
        "plan": vars(runtime.loaded.memory),
        "decoder": runtime.engine.decoder.describe(),
        "ended_by": ended_by,
    }


class Memory:
    """Measures the peak of memory taken since it was made."""

    def __init__(self, device: str) -> None:
        """Start counting."""
        import torch

        self.gpu = device != "cpu"
        if self.gpu:
            torch.zeros(1, device=device)
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        self.before = 0 if self.gpu else self._status("VmRSS")

    def peak(self) -> int:
        """Return the peak in bytes."""
        import torch

        return int(torch.cuda.max_memory_reserved()) if self.gpu else self._status("VmHWM") - self.before

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def compare(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the table of one model; return the figures without the logits."""
    heads = ("window", "load s", "load MB", "peak MB", "planned", "plan/peak", "vs plain", "logits differ")
    print(f"{'way':<28}" + "".join(f"{head:>14}" for head in heads))
    plain = {"nf4" in r["way"]: r for r in results if r["way"] in PLAIN}
    rows = []
    for r in results:
        base, planned = plain["nf4" in r["way"]], r.get("planned_bytes")
        ratio = planned / r["peak_bytes"] if planned else None
        pairs = zip(r.get("logits", base["logits"]), base["logits"], strict=True)
        difference = max(abs(a - b) for a, b in pairs)
        values = (r["load_bytes"] / 1e6, r["peak_bytes"] / 1e6, (planned or 0) / 1e6, ratio or 0)
        cells = [f"{value:>14.2f}" for value in (r["load_s"], *values, r["load_s"] / base["load_s"])]
        print(f"{r['way']:<28}{r['window']:>14}" + "".join(cells) + f"{difference:>14g}")
        rows.append({**r, "plan_ratio": ratio, "logits_differ_by": difference})
    for row in rows:
        row.pop("logits", None)
    return rows


def cases(args: argparse.Namespace) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what is run, in order: (way, name in the table, options that differ)."""
    kept = "ours nf4 kept"
    found: list[tuple[str, str, dict[str, Any]]]
    if not args.gpu:
        found = [(way, way, {}) for way in WAYS[:4]]
        return [*found, (kept, "ours nf4 save", {}), (kept, "ours nf4 again", {})]
    found = [("plain nf4", "plain nf4", {}), (kept, "ours nf4 save", {})]
    for window in args.window:
        for decoder in ("auto", "reference"):
            found.append((kept, f"ours nf4 again, {decoder}", {"window": [window], "decoder": decoder}))
    if args.turns:
        found.append((kept, f"ours nf4, {args.turns} turns", {}))
    return found


def run_here(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every way in this process; report a way that fails, and go on with the others."""
    results = []
    for way, name, changes in cases(args):
        own = argparse.Namespace(**{**vars(args), **changes})
        try:
            found = converse(own) if name.endswith("turns") else measure(way, own)
        except Exception:  # a long run keeps the results that it has
            print(f"{name} failed:\n{traceback.format_exc()}", file=sys.stderr)
            continue
        results.append(found | {"way": name})
    return results


def run_apart(args: argparse.Namespace, folder: Path, scratch: str) -> list[dict[str, Any]]:
    """Run every way in a process of its own."""
    results = []
    for way, name, _ in cases(args):
        command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--cache", scratch]
        command += ["--ids", str(args.ids), "--window", str(args.window[0])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]) | {"way": name})
    return results


def main() -> None:
    """Run every way in a process of its own, or one of them as such a process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true", help="Mistral-7B's shapes on the GPU")
    parser.add_argument(
        "--window", type=int, nargs="+", default=[1000], help="tokens of the sequence decoded"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[32], help="number of layers, with --gpu")
    parser.add_argument("--turns", type=int, default=0, help="also hold a conversation of this many turns")
    parser.add_argument("--decoder", default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="checkpoint (default: the embedded model, or random 7B shapes)"
    )
    parser.add_argument("--ids", type=int, default=30_000, help="token ids of the prompt are below this + 20")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args), default=str))
        return
    rows = []
    for layers in args.layers if args.gpu and not args.folder else [0]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.folder or _checkpoint(args, Path(scratch), layers)
            own = argparse.Namespace(**{**vars(args), "folder": folder, "cache": Path(scratch)})
            results = run_here(own) if args.gpu else run_apart(args, folder, scratch)
            rows += [{**row, "layers": layers} for row in compare(results)]
    print(json.dumps({"benchmark": "load", "results": rows}, default=str))


def _checkpoint(args: argparse.Namespace, scratch: Path, layers: int) -> Path:
    if args.gpu:
        from seven_b import write_checkpoint

        write_checkpoint(scratch / "7b", layers=layers)
        return scratch / "7b"
    from llms.models.embedded import embedded_checkpoint

    return embedded_checkpoint(notify=lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    configure_threads()
    main()
