"""What a run reports about itself on request: the passages found, the steps, the model and its speed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli import console

if TYPE_CHECKING:
    from agent.build import Parts
    from agent.trace import Trace
    from llms.runtime import Runtime


def report_passages(parts: Parts, question: str) -> None:
    """Print the passages that the documents have for a question, on stderr."""
    if not parts.has_documents():
        console.say("no documents to show")
        return
    found = parts.retriever.invoke(question)
    if not found:
        console.say("no passages were found")
    for number, document in enumerate(found, 1):
        score = document.metadata.get("score")
        shown = f" ({score:.2f})" if isinstance(score, float) else ""
        console.say(f"passage {number}: {console.place(document.metadata)}{shown}")
        console.say(f"  {console.shorten(document.page_content, 400)}")


def report_run(parts: Parts, trace: Trace, args: argparse.Namespace) -> None:
    """Print what --trace and --verbose ask for, on stderr."""
    if args.trace:
        for row in console.aligned(
            trace.rows(), ["at ms", "step", "name", "ms", "first ms", "in", "out", "error"]
        ):
            console.say(row)
    if args.verbose:
        _report_model(parts)
        _report_work(trace, parts)


def _report_model(parts: Parts) -> None:
    """Say what was loaded, where, and how long that took; nothing where no model was needed."""
    runtime = parts.model.loaded_runtime()
    if runtime is None:
        console.say("model not loaded: the answer needed none")
        return
    loaded, dtype = runtime.loaded, str(runtime.loaded.dtype).removeprefix("torch.")
    console.say(
        f"model {loaded.name}, quantization {loaded.quantization}, {dtype}, on {loaded.device}, "
        f"window {loaded.window} tokens, loaded in {loaded.load_s:.1f} s"
    )
    console.say(f"decoder {runtime.engine.decoder.describe()}")


def _report_work(trace: Trace, parts: Parts) -> None:
    """Say how many tokens went through the model, how fast, and what memory the process has.

    A decoder that knows the most its memory allows is held against that.
    """
    import psutil

    models = [step for step in trace.steps if step.kind == "model"]
    tokens, seconds = sum(s.output_tokens for s in models), sum(s.seconds or 0 for s in models)
    speed = f"{tokens / seconds:.1f} tokens/s" if seconds else "no tokens"
    runtime = parts.model.loaded_runtime()
    ceiling = getattr(runtime.engine.decoder, "ceiling", None) if runtime else None
    if ceiling and seconds:
        speed += f", {tokens / seconds / ceiling:.0%} of what the memory's bandwidth allows one sequence"
    memory = psutil.Process().memory_info().rss / 2**20
    console.say(f"prompt {sum(s.input_tokens for s in models)} tokens, decoded {tokens} tokens, {speed}")
    console.say(f"memory {memory:.0f} MiB{_gpu_memory(runtime)}")


def _gpu_memory(runtime: Runtime | None) -> str:
    if runtime is None or runtime.loaded.device.type != "cuda":
        return ""
    import torch

    return f", on the GPU {torch.cuda.max_memory_reserved(runtime.loaded.device) / 2**20:.0f} MiB"
