"""Diagnosis: what keeps this machine from running a quantized model on its GPU, and what would be loaded.

    >>> for finding in diagnose():
    ...     print(finding.name, finding.state, finding.fix)  # doctest: +SKIP
    driver missing with an NVIDIA GPU, install its driver (Ubuntu: `sudo ubuntu-drivers install`) and restart

No weights are loaded, nothing is fetched or converted, and nothing is raised: a part that cannot be examined
is a finding too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llms.decoders.cpu import native
from llms.errors import LLMError
from llms.models.catalog import resolve
from llms.models.gpu import ENOUGH_GB, bandwidth, driver, gpus
from llms.models.load import LoadSettings, cache_of, choose_model, plan_load
from llms.models.sources import locate_source
from llms.quiet import quiet

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        name: The part.
        state: `missing` means that models run without it, `broken` that some model does not run.
        detail: What was found.
        fix: The command, call or step that mends it; empty if nothing is wrong.
    """

    name: str
    state: State
    detail: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Return whether nothing has to be mended."""
        return self.state == "ok"


def diagnose() -> list[Finding]:
    """Return a finding for everything that a quantized model on a GPU needs, in the order of installation."""
    return [_check_driver(), _check_torch(), _check_memory(), _check_bitsandbytes(), _check_kernels()]


def judge(settings: LoadSettings) -> Iterator[Finding]:
    """Return which model would be loaded with these settings, how, and which decoder would run it.

    There are two findings, `model` and `decoder`, or one if no model can be loaded.
    """
    try:
        cache = cache_of(settings)
        source = resolve(choose_model(settings, cache)[0].model, settings.revision)
        if locate_source(source, cache) is None:
            text = f"{source.name} is not in the cache yet"
            fix = f'`llms.models.pull("{source.name}")`'
            if source.kind != "hub":
                fix = f"it is fetched with the first question, or by {fix}"
            yield Finding(name="model", state="missing", detail=text, fix=fix)
            return
        plan = plan_load(settings)
    except LLMError as error:
        yield Finding(name="model", state="broken", detail=str(error), fix="see the message")
        return
    memory, device, decoder = plan.memory, plan.settings.device, plan.settings.decoder
    text = (
        f"{source.name} ({plan.weights}) on {device}, window {memory.window:,} tokens, takes "
        f"{memory.total / 1e9:.1f} of {memory.free / 1e9:.1f} GB free"
    )
    better = ""
    if plan.fallback:
        text, better = f"{text}; {plan.fallback.reason}", plan.fallback.remedy
    yield Finding(name="model", state="ok", detail=text, fix=better)
    detail = _decoder(decoder, device, memory.weights)
    if fix := native.notice() if decoder == "reference" and device == "cpu" else "":
        yield Finding(name="decoder", state="missing", detail=detail, fix=fix)
    else:
        yield Finding(name="decoder", state="ok", detail=detail)


def _decoder(name: str, device: str, weights: int) -> str:
    """Return a line about the decoder; for the fast one, with the limit that the GPU's memory sets.

    Args:
        name: The decoder's name.
        device: The device that it runs on.
        weights: Bytes of weights that a token reads.
    """
    if name == "fast":
        rate = bandwidth(device)
        return (
            f"fast: own NF4 kernels and CUDA graphs; this GPU's memory ({rate / 1e12:.2f} TB/s) allows one "
            f"sequence about {rate / weights:,.0f} tokens/s"
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
        return Finding(name=name, state="broken", detail=f"{detail}, next to an NVIDIA driver", fix=fix)
    detail = f"{version} was built for CUDA {torch.version.cuda} and finds no usable GPU"
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
    fix = f"Mistral-7B in NF4 needs {ENOUGH_GB:g} GB: end other GPU programs (see `nvidia-smi`)"
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
    except Exception as error:  # a broken native library may raise anything
        fix = "`pip install --force-reinstall bitsandbytes`"
        return Finding(
            name=name, state="broken", detail=f"bitsandbytes {version} does not import: {error}", fix=fix
        )
    # Without its native library bitsandbytes still imports, with a stand-in that fails on first use.
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
        return Finding(
            name=name,
            state="ok",
            detail="the package `kernels`, which would fetch code from the Hub, is not installed",
        )
    detail = "the package `kernels` is installed: bitsandbytes would fetch code from the Hub with it"
    return Finding(name=name, state="broken", detail=detail, fix="`pip uninstall kernels`")
