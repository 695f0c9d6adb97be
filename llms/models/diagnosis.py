"""What stands between this machine and a quantized model on its GPU, and which model and decoder would run.

Knows driver, torch, bitsandbytes, memory and the choice that `llms.models.load` makes. Refuses to load
weights, to fetch or convert anything, and to raise: what cannot be looked at is a finding too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llms.decoders.cpu import native
from llms.errors import LLMError
from llms.models.catalog import cache_dir, resolve
from llms.models.gpu import ENOUGH_GB, bandwidth, driver, gpus
from llms.models.load import LoadSpec, choose, prepare
from llms.models.sources import here
from llms.quiet import quiet

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        name: What was looked at.
        state: `missing` is something that one can do without, `broken` something that stops a model.
        detail: What was found.
        fix: The command or step that mends it; empty where nothing is wrong.
    """

    name: str
    state: State
    detail: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Return whether nothing is to be mended."""
        return self.state == "ok"


def diagnose() -> list[Finding]:
    """Look at everything that a quantized model needs of a GPU, in the order in which it goes wrong."""
    return [_check_driver(), _check_torch(), _check_memory(), _check_bitsandbytes(), _check_kernels()]


def judge(spec: LoadSpec) -> Iterator[Finding]:
    """Tell which model would be loaded for a specification, how, and which decoder would run it.

    Two findings, `model` and `decoder`; one where no model can be loaded.
    """
    try:
        cache = Path(spec.cache_dir) if spec.cache_dir else cache_dir()
        choice = choose(spec.model, spec.device, require_gpu=spec.require_gpu, cache=cache)
        source = resolve(choice.model, spec.revision)
        if here(source, cache) is None:
            text = f"{source.name} is not in the cache yet"
            fix = f"`agent models pull {source.name}`"
            if source.kind != "hub":
                fix = f'it comes with the first question (`agent ask "hello"`), or {fix}'
            yield Finding(name="model", state="missing", detail=text, fix=fix)
            return
        from llms.models.load import KINDS

        found = prepare(spec, KINDS)
    except LLMError as error:
        yield Finding(name="model", state="broken", detail=str(error), fix="see the message")
        return
    plan = found.memory
    weights = found.dtype if found.quantization == "none" else f"{found.quantization}, {found.dtype}"
    text = (
        f"{found.source.name} ({weights}) on {found.device}, window {plan.window:,} tokens, takes "
        f"{plan.total / 1e9:.1f} of {plan.free / 1e9:.1f} GB free"
    )
    better = ""
    if choice.why:
        text, better = f"{text}; {choice.why}", f"for better: {choice.better}"
    yield Finding(name="model", state="ok", detail=text, fix=better)
    detail = _decoder(found.decoder, found.device, plan.weights)
    if fix := native.notice() if found.decoder == "reference" and found.device == "cpu" else "":
        yield Finding(name="decoder", state="missing", detail=detail, fix=fix)
    else:
        yield Finding(name="decoder", state="ok", detail=detail)


def _decoder(name: str, device: str, weights: int) -> str:
    """Name the decoder and, of the fast one, the limit that it is held against.

    Args:
        name: Its kind.
        device: Where it runs.
        weights: What a token reads, in bytes.
    """
    if name == "fast":
        rate = bandwidth(device)
        return (
            f"fast: own NF4 kernels and CUDA graphs; this GPU's memory ({rate / 1e12:.2f} TB/s) allows one "
            f"sequence about {rate / weights:,.0f} tokens/s; `agent ask --verbose` says which share was had"
        )
    if device.startswith("cuda"):
        return f"{name}; `fast` serves Mistral's and Llama's layers in NF4"
    return f"{name}; `fast` needs a CUDA GPU"


def _check_driver() -> Finding:
    name, found = "driver", driver()
    if found:
        return Finding(name=name, state="ok", detail=found)
    fix = "with an NVIDIA GPU, install its driver (Ubuntu: `sudo ubuntu-drivers install`) and restart"
    if shutil.which("nvidia-smi"):
        return Finding(name=name, state="broken", detail="nvidia-smi does not answer", fix=fix)
    return Finding(name=name, state="missing", detail="no NVIDIA GPU, or no driver (no nvidia-smi)", fix=fix)


def _check_torch() -> Finding:
    import torch

    name, version = "torch", torch.__version__
    if torch.cuda.is_available():
        return Finding(name=name, state="ok", detail=f"{version}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        detail = f"{version} is a CPU build"
        if not driver():
            return Finding(name=name, state="ok", detail=f"{detail}, {torch.get_num_threads()} threads")
        fix = "`pip install --force-reinstall torch==" + version.split("+")[0] + "` without a CPU index"
        return Finding(name=name, state="broken", detail=f"{detail}, beside an NVIDIA driver", fix=fix)
    detail = f"{version} was built for CUDA {torch.version.cuda}, and finds no usable GPU"
    if not driver():
        return Finding(name=name, state="ok", detail=detail)
    fix = "update the NVIDIA driver to one that supports this CUDA version, and check CUDA_VISIBLE_DEVICES"
    return Finding(name=name, state="broken", detail=detail, fix=fix)


def _check_memory() -> Finding:
    name, found = "gpu", gpus()
    if not found:
        return Finding(name=name, state="missing", detail="none in use: models run on the CPU", fix=_above())
    best = max(found, key=lambda gpu: gpu.free)
    detail = f"{best.name}: {best.free / 1e9:.1f} of {best.total / 1e9:.1f} GB free"
    if best.free >= ENOUGH_GB * 1e9:
        return Finding(name=name, state="ok", detail=detail)
    fix = f"Mistral-7B in NF4 wants {ENOUGH_GB:g} GB: end other GPU programs (see `nvidia-smi`)"
    return Finding(name=name, state="broken", detail=detail, fix=fix)


def _above() -> str:
    return "see the lines above" if driver() else ""


def _check_bitsandbytes() -> Finding:
    name = "nf4"
    try:
        version = importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError:
        fix = "`pip install 'bitsandbytes>=0.50'`"
        return Finding(name=name, state="broken", detail="bitsandbytes is not installed", fix=fix)
    try:
        with quiet():
            from bitsandbytes.cextension import lib
    except Exception as error:  # a broken native library raises whatever its loader raises
        fix = "`pip install --force-reinstall bitsandbytes`"
        return Finding(
            name=name, state="broken", detail=f"bitsandbytes {version} does not import: {error}", fix=fix
        )
    # Without its native library bitsandbytes imports all the same, with a stand-in that fails on first use.
    missing = type(lib).__name__.startswith("ErrorHandler")
    compiled_for_cuda = not missing and bool(getattr(lib, "compiled_with_cuda", False))
    if missing or (gpus() and not compiled_for_cuda):
        detail = f"bitsandbytes {version} has no library for this torch's CUDA version"
        fix = "`pip install --upgrade bitsandbytes`, or set BNB_CUDA_VERSION to a version it ships"
        return Finding(name=name, state="broken", detail=detail, fix=fix)
    library = "CUDA" if compiled_for_cuda else "CPU"
    return Finding(name=name, state="ok", detail=f"bitsandbytes {version}, {library} library")


def _check_kernels() -> Finding:
    name = "kernels"
    if importlib.util.find_spec(name) is None:
        return Finding(name=name, state="ok", detail="the package is absent, as it should be")
    detail = "the package `kernels` is installed: bitsandbytes would fetch code from the Hub with it"
    return Finding(name=name, state="broken", detail=detail, fix="`pip uninstall kernels`")
