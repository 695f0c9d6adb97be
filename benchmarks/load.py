"""Loading: time and peak memory of each way to load a model, against plain `from_pretrained`.

    python benchmarks/load.py          # the embedded model on the CPU: bf16, NF4, NF4 from its checkpoint
    python benchmarks/load.py --gpu    # Mistral-7B's shapes with random weights

Each way runs in a process of its own, imports done before the clock starts. Peak memory is the increase of
the resident set (CPU) or `max_memory_reserved` (GPU). The logits of ours are compared with those of
`from_pretrained` with the same settings, and the planned memory with the measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = 1_000
MISTRAL_7B: dict[str, Any] = {
    "vocab_size": 32_768,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
WAYS = ("plain", "ours", "plain nf4", "ours nf4", "ours nf4 kept")


def make_7b(folder: Path, layers: int) -> None:
    """Write a checkpoint of Mistral-7B's shapes with random weights, and a byte tokenizer beside it."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    config = MistralConfig(**{**MISTRAL_7B, "num_hidden_layers": layers}, dtype=torch.bfloat16)
    config.architectures = ["MistralForCausalLM"]
    with torch.device("meta"):
        names = {name: weight.shape for name, weight in MistralForCausalLM(config).state_dict().items()}
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards: dict[str, dict[str, Any]] = {}
    for name, shape in names.items():
        part = name.split(".")[2] if ".layers." in name else "rest"
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
        if "norm" in name:
            weight.fill_(1)
        shards.setdefault(str(int(part) // 8) if part.isdigit() else part, {})[name] = weight.cpu()
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards.values(), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def measure(way: str, folder: Path, cache: Path, device: str, window: int) -> dict[str, Any]:
    """Load one way in this process; return seconds, bytes, and the logits of one prompt."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MistralForCausalLM

    from llms.load import LoadSpec, load, make_decoder
    from llms.quiet import quiet

    assert MistralForCausalLM is not None  # imported before the clock starts
    with quiet():
        import accelerate
        import bitsandbytes
    assert accelerate is not None and bitsandbytes is not None
    probe = Memory(device)
    tokens = [(7919 * i) % 30_000 + 20 for i in range(window - 4)]
    began = time.perf_counter()
    planned = None
    if way.startswith("plain"):
        settings: dict[str, Any] = {
            "dtype": torch.bfloat16,
            "device_map": "auto" if device != "cpu" else None,
        }
        if "nf4" in way:
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_use_double_quant=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(str(folder), **settings)
        seconds = time.perf_counter() - began
    else:
        spec = LoadSpec(
            model=str(folder),
            quantization="nf4" if "nf4" in way else "none",
            device=device,
            window=window,
            cache_dir=cache,
            keep_quantized="kept" in way,
        )
        loaded = load(spec)
        model, seconds = loaded.model, time.perf_counter() - began
        assert loaded.memory is not None
        planned = loaded.memory.total
    loaded_bytes = probe.peak()
    with torch.inference_mode():
        logits = model(torch.tensor([tokens[:64]], device=device)).logits[0, -1].float().cpu()
    if planned is not None:
        decoder = make_decoder(loaded, max_slots=1, kind="reference")
        decoder.prefill(0, tokens)
        decoder.step([0], [[5]])
    return {
        "way": way,
        "load_s": seconds,
        "load_bytes": loaded_bytes,
        "peak_bytes": probe.peak(),
        "planned_bytes": planned,
        "logits": logits.tolist(),
    }


class Memory:
    """The peak of memory taken since this was made."""

    def __init__(self, device: str) -> None:
        """Start counting."""
        import torch

        self.gpu = device != "cpu"
        if self.gpu:
            torch.zeros(1, device=device)
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


def compare(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the table; return the figures without the logits."""
    heads = ("load s", "load MB", "peak MB", "planned", "plan/peak", "vs plain", "logits differ")
    print(f"{'way':<16}" + "".join(f"{head:>14}" for head in heads))
    plain = {"nf4" in r["way"]: r for r in results if r["way"].startswith("plain")}
    rows = []
    for r in results:
        base, planned = plain["nf4" in r["way"]], r["planned_bytes"]
        ratio = planned / r["peak_bytes"] if planned else None
        logits = r.pop("logits") if r is not base else r["logits"]
        difference = max(abs(a - b) for a, b in zip(logits, base["logits"], strict=True))
        values = (r["load_s"], r["load_bytes"] / 1e6, r["peak_bytes"] / 1e6, (planned or 0) / 1e6, ratio or 0)
        cells = [f"{value:>14.2f}" for value in (*values, r["load_s"] / base["load_s"])]
        print(f"{r['way']:<16}" + "".join(cells) + f"{difference:>14g}")
        rows.append({**r, "plan_ratio": ratio, "logits_differ_by": difference})
    for row in rows:
        row.pop("logits", None)
    return {"benchmark": "load", "results": rows}


def main() -> None:
    """Run every way in a process of its own, or, as such a process, one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true", help="Mistral-7B's shapes on the GPU")
    parser.add_argument("--window", type=int, default=PROMPT, help="tokens of the sequence that is decoded")
    parser.add_argument("--layers", type=int, default=32, help="with --gpu: how many of the 32 layers")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="checkpoint (default: the embedded model, or random 7B shapes)"
    )
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = "cuda:0" if args.gpu else "cpu"
    if args.way:
        print(json.dumps(measure(args.way, args.folder, args.cache, device, args.window)))
        return
    from llms.fetch import embedded_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder
        if folder is None and args.gpu:
            folder = Path(scratch, "7b")
            folder.mkdir()
            make_7b(folder, args.layers)
        elif folder is None:
            folder = embedded_checkpoint(notify=lambda line: print(line, file=sys.stderr))
        results = []
        ways = WAYS[2:3] if args.gpu else WAYS[:4]
        for way in (*ways, "ours nf4 kept", "ours nf4 kept"):
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--cache", scratch]
            command += ["--window", str(args.window), *(["--gpu"] if args.gpu else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    results[-2]["way"], results[-1]["way"] = "ours nf4 save", "ours nf4 again"
    print(json.dumps(compare(results)))


if __name__ == "__main__":
    main()
