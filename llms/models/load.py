"""Load a model: from a name to weights on a device, with the decoder that will run them.

    >>> from llms.models.load import load, make_decoder
    >>> from llms.params import LoadSettings
    >>> loaded = load(LoadSettings(model="smollm2-135m", device="cpu"))  # doctest: +SKIP
    >>> decoder = make_decoder(loaded, max_slots=4)                      # doctest: +SKIP

Everything is decided before the first weight is read (`plan_load`): model and device, source, checkpoint,
quantization, dtype, decoder, memory. Only the embedded model is fetched unasked; `auto` never fetches 14 GB.
Each decoder says what it serves and what memory it takes (`DecoderPlan`); `DECODERS` lists them. Importing
this module imports no torch, and loading opens no socket once the checkpoint is on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safetensors import SafetensorError

from llms.decoders import cpu, cuda, reference_plan
from llms.errors import BadRequest, GPURequired, NotEnoughMemory, UnsupportedModel
from llms.models.catalog import AUTO, EMBEDDED, PREFERRED, SMALL, Source, cache_dir, find, resolve
from llms.models.checkpoint import Checkpoint
from llms.models.gguf_tokenizer import check_tokenizer, read_gguf_tokenizer
from llms.models.gpu import ENOUGH_GB, Gpu, gpus, why_none
from llms.models.loaded import LoadedModel, adopt, from_gguf, from_pretrained, from_weights
from llms.models.memory import DecoderMemory, MemoryPlan, plan_memory
from llms.models.registry import announce
from llms.models.sources import checkpoint_folder, locate_source, obtain_gguf
from llms.models.weights import has_plain_layout, read_weights
from llms.params import LoadSettings
from llms.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from llms.decoders.base import Decoder

__all__ = [
    "DECODERS",
    "LoadPlan",
    "LoadSettings",
    "LoadedModel",
    "adopt",
    "load",
    "make_decoder",
    "plan_load",
]

DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATIONS = (AUTO, "nf4", "fp4", "int8", "none")


class DecoderPlan(Protocol):
    """What a decoder says of itself, in a module next to it that imports no torch.

    Attributes:
        NAME: The name that `decoder=` takes.
    """

    NAME: str

    def supports(self, checkpoint: Checkpoint, settings: LoadSettings) -> str | None:
        """Return why the decoder will not serve a checkpoint under decided settings; None if it will."""
        ...

    def supports_loaded(self, loaded: LoadedModel) -> str | None:
        """Return why the decoder does not serve a loaded model; None if it does. Changes nothing."""
        ...

    def memory(self, checkpoint: Checkpoint, settings: LoadSettings, window: int) -> DecoderMemory:
        """Return the memory that it takes in addition to the weights, for a window in tokens."""
        ...


DECODERS: tuple[DecoderPlan, ...] = (cuda, cpu, reference_plan)
"""Every decoder, best first. The last one serves every model."""


# ---- Decisions --------------------------------------------------------------------------------


class Fallback(NamedTuple):
    """Why a load does not get the best model or device, and the step that would give it."""

    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything that is decided before the first weight is read.

    Attributes:
        settings: The settings, with model, device, quantization, dtype and decoder decided.
        cache: Root of the cache.
        source: The model's source.
        checkpoint: Its checkpoint.
        memory: The memory plan.
        fallback: Why it is not a better model or device; None if nothing better was possible or asked for.
        remark: What else the user should know, such as missing native code; may be empty.
    """

    settings: LoadSettings
    cache: Path
    source: Source
    checkpoint: Checkpoint
    memory: MemoryPlan
    fallback: Fallback | None = None
    remark: str = ""

    @property
    def weights(self) -> str:
        """Return how the weights are stored, for people: `nf4, bfloat16`."""
        s = self.settings
        return str(s.dtype) if s.quantization == "none" else f"{s.quantization}, {s.dtype}"

    @property
    def notice(self) -> str:
        """Return one line for the user about model, device and window; empty if all is as expected."""
        longest = longest_window(self.source, self.checkpoint)
        parts = [f"model: {self.source.name} ({self.weights}) on {self.settings.device}"]
        if self.fallback:
            parts.append(f": {self.fallback.reason}; {self.fallback.remedy}")
        if self.memory.window < longest:
            parts.append(f"; window {self.memory.window:,} of {longest:,} tokens")
        about = "".join(parts) if self.fallback or self.memory.narrowed else ""
        return "; ".join(filter(None, [about, self.remark]))


def plan_load(settings: LoadSettings, decoders: Sequence[DecoderPlan] = DECODERS) -> LoadPlan:
    """Return all decisions about a load. The embedded model is fetched if it is missing; no weight is read.

    Raises:
        LLMError: What `load` raises before it reads weights.
    """
    if settings.window is not None and settings.window < 1:
        raise BadRequest(f"expected window to be at least 1 token, found {settings.window!r}")
    if settings.slots < 1:
        raise BadRequest(f"expected slots to be at least 1, found {settings.slots!r}")
    cache = cache_of(settings)
    chosen, fallback = choose_model(settings, cache)
    source = resolve(chosen.model, chosen.revision)
    checkpoint = _in_place(source, chosen, cache) or Checkpoint.open(
        checkpoint_folder(
            source, cache, download=settings.download, notify=settings.notify, progress=settings.progress
        )
    )
    quantization = choose_quantization(
        settings.quantization, parameters=checkpoint.parameters, stored=checkpoint.stored_quantization
    )
    dtype = choose_dtype(settings.dtype, quantization, chosen.device)
    chosen = replace(chosen, quantization=quantization, dtype=dtype)
    decoder, memory = _plan_for_best(decoders, checkpoint, chosen, source, cache)
    remark = ""
    if settings.decoder == AUTO and cpu.lacks_native_code(checkpoint, chosen):
        remark = cpu.native.notice()
    return LoadPlan(
        settings=replace(chosen, decoder=decoder.NAME),
        cache=cache,
        source=source,
        checkpoint=checkpoint,
        memory=memory,
        fallback=fallback,
        remark=remark,
    )


def _in_place(source: Source, settings: LoadSettings, cache: Path) -> Checkpoint | None:
    """Return a GGUF file as it is, if the CPU decoder runs it so; None for other sources and other settings.

    Raises:
        DamagedCheckpoint: The file is cut short or contradicts itself.
        UnsupportedModel: The CPU decoder was asked for, and does not run it.
        LLMError: What `obtain_gguf` raises.
    """
    how = (settings.device, settings.quantization, settings.adapter)
    if how != ("cpu", AUTO, None) or settings.dtype not in (None, "bfloat16"):
        return None
    if settings.decoder not in (AUTO, cpu.NAME) or (settings.decoder == AUTO and cpu.native.missing()):
        return None
    path = obtain_gguf(
        source, cache, download=settings.download, notify=settings.notify, progress=settings.progress
    )
    if path is None:
        return None
    try:
        checkpoint = Checkpoint.of_gguf(path)
        if checkpoint.gguf is not None:
            check_tokenizer(checkpoint.gguf.file)
    except UnsupportedModel as error:
        if settings.decoder == cpu.NAME:
            raise
        settings.notify(f"{error}; converting the file for the {reference_plan.NAME} decoder")
        return None
    decided = replace(settings, dtype="bfloat16")
    if cpu.supports(checkpoint, decided) is None or settings.decoder == cpu.NAME:
        return checkpoint
    return None


def cache_of(settings: LoadSettings) -> Path:
    """Return the root of the cache."""
    return Path(settings.cache_dir) if settings.cache_dir else cache_dir()


def choose_model(settings: LoadSettings, cache: Path) -> tuple[LoadSettings, Fallback | None]:
    """Return the settings with a model and a device in place of `auto`, and why they are not the best ones.

    Raises:
        BadRequest: The device does not exist as a name, or contradicts `require_gpu`.
        GPURequired: A GPU was asked for, and none can be used.
    """
    gpu = _choose_gpu(settings.device, settings.require_gpu)
    on_cpu = settings.device == "cpu"
    chosen = replace(settings, device=f"cuda:{gpu.index}" if gpu else "cpu")
    if settings.model != AUTO:
        if gpu or on_cpu:
            return chosen, None
        return chosen, Fallback(why_none(), "`llms.diagnose()` says how to use a GPU")
    small, pull = replace(chosen, model=EMBEDDED), f'`llms.models.pull("{PREFERRED}")`'
    if gpu is None:
        reason = "the CPU was asked for" if on_cpu else why_none()
        return small, Fallback(
            reason, f"for {PREFERRED}, use an NVIDIA GPU of {ENOUGH_GB:g} GB and run {pull}"
        )
    if not in_cache(PREFERRED, cache):
        return small, Fallback(f"{PREFERRED} is not on this machine", f"to get it, run {pull}")
    if gpu.free < ENOUGH_GB * 1e9:
        reason = f"{gpu.name} has {gpu.free / 1e9:.1f} GB free, {PREFERRED} needs {ENOUGH_GB:g} GB"
        return small, Fallback(reason, "to make room, end other GPU programs (`nvidia-smi` lists them)")
    return replace(chosen, model=PREFERRED), None


def in_cache(name: str, cache: Path) -> bool:
    """Return whether a catalog model's weights are whole on this machine."""
    return find(name) is not None and locate_source(resolve(name), cache) is not None


def _choose_gpu(device: str, require_gpu: bool) -> Gpu | None:
    kind, _, index = device.partition(":")
    if kind not in (AUTO, "cpu", "cuda") or (index and not index.isdigit()):
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
            f"expected {which}, found none that can be used: {why_none()}; without require_gpu=True and with "
            'device="auto" the model runs on the CPU',
            hint="llms.diagnose()",
        )
    return None


def choose_quantization(asked: str, *, parameters: int, stored: str | None) -> str:
    """Return the quantization: the stored one if there is one; for `auto`, NF4 from a billion weights on.

    >>> choose_quantization("auto", parameters=7_248_023_552, stored=None)
    'nf4'

    Raises:
        BadRequest: There is no such quantization, or the checkpoint is stored in another one.
    """
    if asked not in QUANTIZATIONS:
        raise BadRequest(f"expected quantization to be one of {', '.join(QUANTIZATIONS)}, found {asked!r}")
    if stored is not None:
        if asked not in (AUTO, stored):
            raise BadRequest(
                f"expected quantization 'auto' or {stored!r}, in which this checkpoint is stored, found "
                f"{asked!r}; for another one start from the unquantized weights"
            )
        return stored
    if asked != AUTO:
        return asked
    return "none" if parameters < SMALL else "nf4"


def choose_dtype(asked: str | None, quantization: str, device: str) -> str:
    """Return the dtype of the computation: by default bfloat16 if the device has it.

    Raises:
        BadRequest: There is no such dtype.
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


def longest_window(source: Source, checkpoint: Checkpoint) -> int:
    """Return the longest sequence of a model in tokens.

    The catalog is right if a published configuration promises more than the model was trained for.
    """
    return min(checkpoint.context, source.entry.context) if source.entry else checkpoint.context


def _plan_for_best(
    decoders: Sequence[DecoderPlan],
    checkpoint: Checkpoint,
    settings: LoadSettings,
    source: Source,
    cache: Path,
) -> tuple[DecoderPlan, MemoryPlan]:
    """Return the best decoder that fits in memory, and its plan; the last one's refusal has the numbers."""
    from llms.models.pretrained import is_kept, keeps

    quantization, dtype = settings.quantization, str(settings.dtype)
    ready = keeps(checkpoint, quantization, settings.keep_quantized) and is_kept(
        source, checkpoint, quantization, dtype, cache
    )
    longest = longest_window(source, checkpoint)
    candidates = expected_decoders(decoders, checkpoint, settings)
    for decoder in candidates:
        try:
            return decoder, plan_memory(
                checkpoint, settings, decoder.memory, longest=longest, name=source.name, ready=ready
            )
        except NotEnoughMemory:
            if decoder is candidates[-1]:
                raise
    raise AssertionError("the last decoder serves every model")


# ---- Loading ----------------------------------------------------------------------------------


def load(settings: LoadSettings) -> LoadedModel:
    """Load a model; the embedded one is fetched first if it is missing.

    >>> load(LoadSettings(model="smollm2-135m", device="cpu")).window  # doctest: +SKIP
    8192

    Raises:
        BadRequest: A setting is out of range.
        UnknownModel: There is no such model, or a Hub model was not pulled.
        GPURequired: A GPU was asked for, and there is none.
        DamagedCheckpoint: The checkpoint is cut short or altered.
        UnsupportedModel: Its architecture, file format or configuration cannot be used.
        NotEnoughMemory: It does not fit; the message says what would.
        QuantizationUnavailable: bitsandbytes is missing or does not run here.
        AdapterMismatch: The adapter belongs to another base model.
        FetchError: The embedded model could not be fetched.
    """
    began = time.perf_counter()
    plan = plan_load(settings)
    # The tokenizer comes before the weights, because a missing one is then found quickly.
    gguf = plan.checkpoint.gguf
    tokenizer = read_gguf_tokenizer(gguf.file) if gguf else ModelTokenizer.read(plan.checkpoint.folder)
    if plan.notice:
        settings.notify(plan.notice)
    loaded = _read_by_name(plan, tokenizer) or _read_pretrained(plan, tokenizer)
    announce(
        plan.cache,
        name=plan.source.name,
        device=plan.settings.device,
        quantization=plan.settings.quantization,
        window=plan.memory.window,
        memory=plan.memory.total,
    )
    loaded.source, loaded.checkpoint, loaded.memory = plan.source, plan.checkpoint, plan.memory
    loaded.quantization, loaded.decoder = plan.settings.quantization, plan.settings.decoder
    loaded.parameters, loaded.notice = plan.checkpoint.parameters, plan.notice
    loaded.load_s = time.perf_counter() - began
    return loaded


def _read_by_name(plan: LoadPlan, tokenizer: ModelTokenizer) -> LoadedModel | None:
    """Return the model with its weights read by name; None if transformers has to read it."""
    settings = plan.settings
    if plan.checkpoint.gguf is not None:
        return from_gguf(plan.checkpoint, tokenizer, plan.source.name, plan.memory.window)
    if settings.decoder != cpu.NAME or (settings.quantization, settings.device) != ("none", "cpu"):
        return None
    if settings.adapter is not None or not has_plain_layout(plan.checkpoint):
        return None
    try:
        weights = read_weights(plan.checkpoint, str(plan.settings.dtype))
    except (OSError, SafetensorError):
        return None  # transformers then says what is wrong
    return from_weights(weights, plan.checkpoint, tokenizer, plan.source.name, plan.memory.window)


def _read_pretrained(plan: LoadPlan, tokenizer: ModelTokenizer) -> LoadedModel:
    from llms.models.pretrained import keeps, quantized_model, read_model

    settings, checkpoint = plan.settings, plan.checkpoint
    quantization, dtype, device = settings.quantization, str(settings.dtype), settings.device
    model: Any
    if keeps(checkpoint, quantization, settings.keep_quantized):
        model = quantized_model(
            plan.source, checkpoint, quantization, dtype, device, plan.cache, settings.notify
        )
    else:
        model = read_model(checkpoint, quantization=quantization, dtype=dtype, device=device)
    if settings.adapter is not None:
        from llms.models.adapter import apply_adapter

        model = apply_adapter(model, Path(settings.adapter), plan.source, merge=settings.merge_adapter)
    return from_pretrained(model, tokenizer, plan.source.name, plan.memory.window)


# ---- Decoders ---------------------------------------------------------------------------------


def make_decoder(
    loaded: LoadedModel, *, max_slots: int = 64, window: int | None = None, kind: str = AUTO
) -> Decoder:
    """Return the best decoder that serves a loaded model.

    >>> make_decoder(loaded, max_slots=4, kind="reference").describe()  # doctest: +SKIP
    'reference (forward passes of transformers) on cpu'

    Args:
        loaded: The model.
        max_slots: Most sequences at once.
        window: Longest sequence in tokens; None for the model's.
        kind: The name of one of `DECODERS`, or `auto`.

    Raises:
        BadRequest: There is no such decoder.
        UnsupportedModel: The decoder that was asked for does not serve this model or device.
    """
    chosen, window = choose_decoder(DECODERS, loaded, kind), window or loaded.window
    if chosen is cuda:
        return cuda.build(loaded, max_slots, window)
    if chosen is cpu:
        return cpu.build(loaded, max_slots, window)
    from llms.decoders.reference import ReferenceDecoder

    faster = cpu if loaded.device.type == "cpu" else cuda
    why = faster.supports_loaded(loaded) or ""
    return ReferenceDecoder(loaded.model, window=window, max_slots=max_slots, why=why)


def expected_decoders(
    decoders: Sequence[DecoderPlan], checkpoint: Checkpoint, settings: LoadSettings
) -> list[DecoderPlan]:
    """Return the decoders that may serve a checkpoint, best first.

    Raises:
        BadRequest: There is no decoder of the name that was asked for.
    """
    if settings.decoder != AUTO:
        return [_named(decoders, settings.decoder)]
    return [decoder for decoder in decoders if decoder.supports(checkpoint, settings) is None]


def choose_decoder(decoders: Sequence[DecoderPlan], loaded: LoadedModel, asked: str = AUTO) -> DecoderPlan:
    """Return the decoder that was asked for; for `auto`, the first that serves the model.

    If memory was planned for one of them, `auto` takes no better one than that.

    Args:
        decoders: All decoders, best first; the last serves every model.
        loaded: The model.
        asked: The name of one of them, or `auto`.

    Raises:
        BadRequest: There is no such decoder.
        UnsupportedModel: The decoder that was asked for does not serve this model or device.
    """
    if asked == AUTO:
        first = decoders.index(_named(decoders, loaded.decoder)) if loaded.decoder else 0
        return next(decoder for decoder in decoders[first:] if decoder.supports_loaded(loaded) is None)
    decoder = _named(decoders, asked)
    if reason := decoder.supports_loaded(loaded):
        raise UnsupportedModel(
            f"expected a model that the {asked} decoder serves, found: {reason}; use decoder 'auto' or "
            f"{decoders[-1].NAME!r}"
        )
    return decoder


def _named(decoders: Sequence[DecoderPlan], name: str) -> DecoderPlan:
    for decoder in decoders:
        if decoder.NAME == name:
            return decoder
    names = [AUTO, *(decoder.NAME for decoder in decoders)]
    raise BadRequest(f"expected decoder to be one of {', '.join(names)}, found {name!r}")
