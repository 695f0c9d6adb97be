"""Which model, on which device, quantized how: the decisions that `auto` stands for.

Knows the catalog, the GPUs and what is in the cache. Refuses to load or fetch anything; nothing of 14 GB is
ever downloaded because `auto` was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llms.catalog import AUTO, EMBEDDED, PREFERRED, Source, find, resolve
from llms.errors import BadRequest, GPURequired
from llms.gpu import ENOUGH_GB, Gpu, gpus, why_none

if TYPE_CHECKING:
    from llms.memory import Plan

DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATIONS = ("auto", "nf4", "fp4", "int8", "none")
SMALL = 1_000_000_000
"""Below this many parameters 4-bit weights cost more quality than they save memory: `auto` leaves them."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The model and the device that were chosen.

    Attributes:
        model: A name that `llms.catalog.resolve` takes.
        device: "cuda:N" or "cpu".
        why: Why it is not a better one, in a few words; empty where nothing better was possible or asked for.
        better: The command or step that gets the better one.
    """

    model: str
    device: str
    why: str = ""
    better: str = ""


def choose(model: str, device: str, *, require_gpu: bool, cache: Path) -> Choice:
    """Choose the model where `auto` was asked, and the device.

    Args:
        model: `auto` or a model's name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        require_gpu: Refuse instead of falling back to the CPU.
        cache: The cache's root, where a pulled model would be.

    Raises:
        BadRequest: The device is none of these, or contradicts `require_gpu`.
        GPURequired: A GPU was asked for and there is none that can be used.
    """
    gpu = _gpu(device, require_gpu)
    where = f"cuda:{gpu.index}" if gpu else "cpu"
    if model != AUTO:
        why = "" if gpu or device == "cpu" else why_none()
        return Choice(model=model, device=where, why=why, better="see `agent doctor`" if why else "")
    if gpu is None:
        why = "the CPU was asked for" if device == "cpu" else why_none()
        better = f"with an NVIDIA GPU of {ENOUGH_GB:g} GB, `agent models pull {PREFERRED}`"
        return Choice(model=EMBEDDED, device=where, why=why, better=better)
    if not in_cache(PREFERRED, cache):
        why = f"{PREFERRED} is not on this machine"
        return Choice(model=EMBEDDED, device=where, why=why, better=f"`agent models pull {PREFERRED}`")
    if gpu.free < ENOUGH_GB * 1e9:
        why = f"{gpu.name} has {gpu.free / 1e9:.1f} GB free, {PREFERRED} wants {ENOUGH_GB:g} GB"
        return Choice(model=EMBEDDED, device=where, why=why, better="end other GPU programs (`nvidia-smi`)")
    return Choice(model=PREFERRED, device=where)


def in_cache(name: str, cache: Path) -> bool:
    """Tell whether a catalog model's weights are on this machine, fetched whole."""
    from llms.sources.sources import here

    return find(name) is not None and here(resolve(name), cache) is not None


def quantization(asked: str, *, parameters: int, stored: str | None) -> str:
    """Turn `auto` into a quantization: what is stored already, else NF4 from a billion parameters on.

    Raises:
        BadRequest: No such quantization, or another one than the checkpoint is stored in.
    """
    if asked not in QUANTIZATIONS:
        raise BadRequest(f"expected quantization to be one of {', '.join(QUANTIZATIONS)}, found {asked!r}")
    if stored is not None:
        if asked not in ("auto", stored):
            raise BadRequest(
                f"expected quantization 'auto' or {stored!r}, which this checkpoint is stored in, found "
                f"{asked!r}; for another one start from the unquantized weights"
            )
        return stored
    if asked != "auto":
        return asked
    return "none" if parameters < SMALL else "nf4"


def dtype(asked: str | None, quantization: str, device: str) -> str:
    """Choose what is computed in where nothing was asked: bfloat16 wherever the device has it.

    Raises:
        BadRequest: No such type.
    """
    if asked is not None:
        if asked not in DTYPES:
            raise BadRequest(f"expected dtype to be one of {', '.join(DTYPES)}, found {asked!r}")
        return asked
    if quantization == "int8":
        return "float16"  # bitsandbytes' 8-bit product casts everything else to it
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        return "bfloat16" if any(gpu.bf16 for gpu in gpus() if gpu.index == index) else "float16"
    return "bfloat16"


def longest(source: Source, context: int) -> int:
    """Return the longest sequence of a source in tokens, `context` being what its checkpoint says.

    The catalog knows better where a published configuration promises more than the model was trained for.
    """
    return min(context, source.entry.context) if source.entry else context


def notice(name: str, choice: Choice, quantization: str, dtype: str, memory: Plan, longest: int) -> str:
    """Return the one line about model, device and window; empty where all is as one would expect."""
    weights = dtype if quantization == "none" else f"{quantization}, {dtype}"
    parts = [f"model: {name} ({weights}) on {choice.device}"]
    if choice.why:
        parts.append(f": {choice.why}; for better: {choice.better}")
    if memory.window < longest:
        parts.append(f"; window {memory.window:,} of {longest:,} tokens")
    return "".join(parts) if choice.why or memory.narrowed else ""


def _gpu(device: str, require_gpu: bool) -> Gpu | None:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise BadRequest(f"expected device to be auto, cpu, cuda or cuda:N, found {device!r}")
    if kind == "cpu":
        if require_gpu:
            raise BadRequest("expected device 'auto' or 'cuda' together with require_gpu, found 'cpu'")
        return None
    found = gpus()
    if index:
        found = [gpu for gpu in found if gpu.index == int(index)]
    if found:
        return max(found, key=lambda gpu: gpu.free)
    if require_gpu or kind == "cuda":
        which = device if index else "a GPU"
        raise GPURequired(
            f"expected {which}, found none that can be used: {why_none()}; `agent doctor` says what to mend, "
            f"without --require-gpu and with device='auto' the CPU serves"
        )
    return None
