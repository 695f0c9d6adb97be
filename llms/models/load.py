"""Which decoder runs a loaded model: the kinds that there are, best first, and what each has against a model.

Knows names, order and refusals. Refuses to import any decoder: a `Kind` imports its own when it is asked
(`llms.models.load` lists them), so that what serves one machine costs nothing on another.

Which model, on which device, quantized how: the decisions that `auto` stands for.

Knows the catalog, the GPUs and what is in the cache. Refuses to load or fetch anything; nothing of 14 GB is
ever downloaded because `auto` was asked.

What to load and how, and all that is decided about it before the first weight is read.

Knows the order of the decisions: model and device, source, checkpoint, quantization, type, decoder, memory.
Refuses to read weights (`llms.models.load`). `agent doctor` asks here what would run. Importing it does not
import torch.

From a model's name to a model that can decode: the one place where the pieces of this room meet.

Knows the order of the steps, from what was prepared over the weights to the adapter, and which decoders there
are. Refuses to know how a step is done, to know text and templates (`llms.chat`), and to fetch more than the
embedded model on its own. Importing it does not import torch; loading opens no socket once the checkpoint is
on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from llms.decoders import cpu
from llms.errors import BadRequest, DamagedCheckpoint, GPURequired, NotEnoughMemory, UnsupportedModel
from llms.models import memory as footprint
from llms.models.catalog import AUTO, EMBEDDED, PREFERRED, SMALL, Source, cache_dir, find, resolve
from llms.models.checkpoint import Facts, Notify, manifest, read, silent, verify
from llms.models.embedded import Progress, no_progress
from llms.models.gpu import ENOUGH_GB, Gpu, gpus, why_none
from llms.models.loaded import LoadedModel, adopt, describe
from llms.models.memory import FAST_BATCH, IDLE_BYTES, Footprint, Plan, Setting, free_bytes, plan, reference
from llms.models.registry import announce
from llms.models.skeleton import fits, read_skeleton
from llms.models.sources import checkpoint_folder
from llms.models.weights import is_kept, keeps, quantized_weights
from llms.tokenizer import plain_tokenizer

if TYPE_CHECKING:
    from llms.decoders.base import Decoder
    from llms.models.checkpoint import Facts
    from llms.models.loaded import LoadedModel
    from llms.models.memory import Plan

__all__ = ["KINDS", "LoadSpec", "LoadedModel", "adopt", "load", "make_decoder"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One implementation of the `Decoder` seam.

    Attributes:
        name: What a user calls it.
        why_not: The reason in a few words why it does not serve a model; None where it does. It must be cheap
            where the answer is plain (another device), and must not change the model.
        build: Makes the decoder from the model, the most sequences at once, and the longest sequence in
            tokens.
        expects: Tells from a checkpoint and how it would be run, before anything is loaded, whether this kind
            will serve it: what memory is planned for.
        footprint: How it spends memory.
    """

    name: str
    why_not: Callable[[LoadedModel], str | None]
    build: Callable[[LoadedModel, int, int], Decoder]
    expects: Callable[[Facts, Setting], bool] = lambda facts, setting: True
    footprint: Footprint = reference


def expected(kinds: Sequence[Kind], facts: Facts, setting: Setting, asked: str = AUTO) -> list[Kind]:
    """Return the kinds that may come to serve a checkpoint, the likeliest first.

    Args:
        kinds: All there are, best first; the last serves every model.
        facts: The checkpoint.
        setting: How it would be run.
        asked: A kind's name, or `auto`.

    Raises:
        BadRequest: No such kind.
    """
    if asked != AUTO:
        return [_named(kinds, asked)]
    return [kind for kind in kinds if kind.expects(facts, setting)]


def pick(kinds: Sequence[Kind], loaded: LoadedModel, asked: str = AUTO) -> Kind:
    """Return the kind that was asked for; for `auto` the first that serves the model.

    Where memory was planned for one of them, `auto` looks no further up than that one.

    Args:
        kinds: All there are, best first; the last serves every model.
        loaded: The model.
        asked: A kind's name, or `auto`.

    Raises:
        BadRequest: No such kind.
        UnsupportedModel: The kind that was asked for does not serve this model or device.
    """
    if asked == AUTO:
        planned = kinds.index(_named(kinds, loaded.decoder)) if loaded.decoder else 0
        return next(kind for kind in kinds[planned:] if kind.why_not(loaded) is None)
    kind = _named(kinds, asked)
    if reason := kind.why_not(loaded):
        raise UnsupportedModel(
            f"expected a model that the {asked} decoder serves, found: {reason}; use decoder 'auto' or "
            f"{kinds[-1].name!r}"
        )
    return kind


def _named(kinds: Sequence[Kind], name: str) -> Kind:
    for kind in kinds:
        if kind.name == name:
            return kind
    names = [AUTO, *(kind.name for kind in kinds)]
    raise BadRequest(f"expected decoder to be one of {', '.join(names)}, found {name!r}")


DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATIONS = ("auto", "nf4", "fp4", "int8", "none")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The model and the device that were chosen.

    Attributes:
        model: A name that `llms.models.catalog.resolve` takes.
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
    from llms.models.sources import here

    return find(name) is not None and here(resolve(name), cache) is not None


def choose_quantization(asked: str, *, parameters: int, stored: str | None) -> str:
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


def choose_dtype(asked: str | None, quantization: str, device: str) -> str:
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


def longest_window(source: Source, context: int) -> int:
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


@dataclass(frozen=True, kw_only=True)
class LoadSpec:
    """What to load and how; equal specs share one loaded model, so it is hashable.

    Attributes:
        model: `auto`, a catalog name, a Hub id, a checkpoint folder or a GGUF file.
        quantization: `auto`, `nf4`, `fp4`, `int8` or `none`.
        dtype: `bfloat16`, `float16` or `float32`: what is not quantized, and the computation; None for
            bfloat16
            (float16 on a GPU without it).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        revision: Branch, tag or commit of a Hub repository.
        adapter: Folder of a PEFT adapter to put on top.
        merge_adapter: Fold the adapter into the weights (faster, but not undone).
        window: Longest sequence in tokens; None for the longest that the model knows and memory allows.
        slots: How many sequences at the full window the memory plan makes room for.
        decoder: The kind of decoder that will run it, for the plan: `auto` or a name in
            `llms.models.load.KINDS`.
        cache_dir: The cache's root; None for the platform's.
        keep_quantized: Keep a 4-bit checkpoint in the cache; None: from a billion parameters on.
        require_gpu: Refuse to run on the CPU.
        notify: Takes a line for the user.
        progress: Told of downloads.
    """

    model: str = AUTO
    quantization: str = "auto"
    dtype: str | None = None
    device: str = "auto"
    revision: str | None = None
    adapter: str | Path | None = None
    merge_adapter: bool = False
    window: int | None = None
    slots: int = 1
    decoder: str = AUTO
    cache_dir: Path | None = None
    keep_quantized: bool | None = None
    require_gpu: bool = False
    notify: Notify = field(default=silent, compare=False)
    progress: Progress = field(default=no_progress, compare=False)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that was decided before the first weight is read.

    Attributes:
        spec: What was asked for.
        cache: The cache's root.
        source: Where the model comes from.
        facts: What its checkpoint says of itself.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What is not quantized, and the KV cache.
        device: `cpu` or `cuda:N`.
        decoder: The kind of decoder that memory was planned for.
        memory: The plan.
        notice: The one line for the user about model, device, window and missing native code; may be empty.
    """

    spec: LoadSpec
    cache: Path
    source: Source
    facts: Facts
    quantization: str
    dtype: str
    device: str
    decoder: str
    memory: Plan
    notice: str


def prepare(spec: LoadSpec, kinds: Sequence[Kind]) -> Prepared:
    """Decide everything, fetching the embedded model first where it is missing; no weight is read.

    Args:
        spec: What to load and how.
        kinds: The decoders there are, best first.

    Raises:
        LLMError: What `llms.models.load.load` raises before it reads weights.
    """
    if spec.window is not None and spec.window < 1:
        raise BadRequest(f"expected window to be at least 1 token, found {spec.window!r}")
    if spec.slots < 1:
        raise BadRequest(f"expected slots to be at least 1, found {spec.slots!r}")
    cache = Path(spec.cache_dir) if spec.cache_dir else cache_dir()
    choice = choose(spec.model, spec.device, require_gpu=spec.require_gpu, cache=cache)
    source = resolve(choice.model, spec.revision)
    facts = read(checkpoint_folder(source, cache, notify=spec.notify, progress=spec.progress))
    quantization = choose_quantization(
        spec.quantization, parameters=facts.parameters, stored=facts.stored_quantization
    )
    dtype = choose_dtype(spec.dtype, quantization, choice.device)
    longest = longest_window(source, facts.context)
    ready = keeps(facts, quantization, spec.keep_quantized) and is_kept(
        source, facts, quantization, dtype, cache
    )
    setting = Setting(
        quantization=quantization,
        dtype=dtype,
        device=choice.device,
        window=spec.window or longest,
        slots=spec.slots,
        adapter=spec.adapter is not None and not spec.merge_adapter,
    )
    likely = expected(kinds, facts, setting, spec.decoder)
    kind, memory = _planned(likely, facts, setting, spec.window is None, longest, source.name, ready)
    notices = [notice(source.name, choice, quantization, dtype, memory, longest)]
    if spec.decoder == AUTO and cpu.lacks_native_code(facts, setting):
        notices.append(cpu.native.notice())
    return Prepared(
        spec=spec,
        cache=cache,
        source=source,
        facts=facts,
        quantization=quantization,
        dtype=dtype,
        device=choice.device,
        decoder=kind.name,
        memory=memory,
        notice="; ".join(filter(None, notices)),
    )


def _planned(
    kinds: Sequence[Kind],
    facts: Facts,
    setting: Setting,
    narrow: bool,
    longest: int,
    name: str,
    ready: bool,
) -> tuple[Kind, Plan]:
    """Plan for the best decoder that has room; where none has, the last one's refusal has the numbers."""
    for kind in kinds:
        try:
            return kind, plan(
                facts,
                setting,
                longest=longest,
                narrow=narrow,
                name=name,
                ready=ready,
                footprint=kind.footprint,
            )
        except NotEnoughMemory:
            if kind is kinds[-1]:
                raise
    raise AssertionError("the last kind serves every model")


def load(spec: LoadSpec) -> LoadedModel:
    """Load a model, fetching the embedded one first where it is missing.

    Raises:
        BadRequest: A setting is out of range.
        UnknownModel: No such model, or a Hub model that was not pulled.
        GPURequired: A GPU was asked for and there is none.
        DamagedCheckpoint: The checkpoint is cut short or altered.
        UnsupportedModel: Its architecture, file format or configuration cannot be used.
        NotEnoughMemory: It does not fit; the message says what would.
        QuantizationUnavailable: bitsandbytes is missing or refuses.
        AdapterMismatch: The adapter belongs to another base model.
        FetchError: The embedded model could not be fetched.
    """
    began = time.perf_counter()
    job = prepare(spec, KINDS)
    tokenizer = _tokenizer(job.facts.folder)  # before the weights, as it costs little to find it missing
    if job.notice:
        spec.notify(job.notice)
    model = _adapted(job, _weights(job))
    announce(
        job.cache,
        name=job.source.name,
        device=job.device,
        quantization=job.quantization,
        window=job.memory.window,
        memory=job.memory.total,
    )
    return replace(
        describe(model, tokenizer, job.source.name, job.memory.window),
        source=job.source,
        quantization=job.quantization,
        parameters=job.facts.parameters,
        decoder=job.decoder,
        memory=job.memory,
        folder=job.facts.folder,
        notice=job.notice,
        load_s=time.perf_counter() - began,
    )


def make_decoder(
    loaded: LoadedModel, *, max_slots: int = 64, window: int | None = None, kind: str = "auto"
) -> Decoder:
    """Build the decoder that fits a loaded model.

    Args:
        loaded: The model.
        max_slots: Most sequences at once.
        window: Longest sequence in tokens; None for the model's.
        kind: The name of one of `KINDS`, or `auto`: the first of them that serves this model and device.

    Raises:
        BadRequest: No such kind.
        UnsupportedModel: The kind that was asked for does not serve this model or device.
    """
    return pick(KINDS, loaded, kind).build(loaded, max_slots, window or loaded.window)


def _expects_fast(facts: Facts, setting: Setting) -> bool:
    known = facts.config.get("model_type") in ("mistral", "llama") and not setting.adapter
    return known and (setting.quantization, setting.dtype, setting.device[:4]) == ("nf4", "bfloat16", "cuda")


def _why_not_fast(loaded: LoadedModel) -> str | None:
    if loaded.device.type != "cuda":
        return f"it needs a CUDA GPU, the model is on {loaded.device}"
    if getattr(loaded.model, "peft_config", None):
        return "it reads the base model's weights alone, and there is an adapter; merge that (merge_adapter)"
    if loaded.source is None and free_bytes(str(loaded.device)) < 2 * loaded.model.get_memory_footprint():
        return "the model is its owner's, and there is no room for a second copy of its weights"
    from llms.decoders import cuda as fast

    return fast.supports(loaded)


def _fast(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.decoders import cuda as fast

    token = footprint.kv_bytes(loaded.model.config.to_dict(), "bfloat16")
    cache = loaded.memory.cache if loaded.memory else token * max(window, FAST_BATCH) + IDLE_BYTES
    return fast.build(
        loaded, max_slots, window, cache_tokens=cache // token, release=loaded.source is not None
    )


def _why_not_cpu(loaded: LoadedModel) -> str | None:
    from llms.decoders.cpu.decoder import unsupported

    return unsupported(loaded.body)


def _cpu(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.decoders.cpu.decoder import CpuDecoder
    from llms.decoders.cpu.weights import BlockFile

    ours = loaded.folder and loaded.source and loaded.source.kind in ("embedded", "gguf")
    blocks = BlockFile(loaded.folder) if ours and loaded.folder else None
    return CpuDecoder(loaded.body, window=window, max_slots=max_slots, blocks=blocks)


def _reference(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.decoders.reference import ReferenceDecoder

    reason = _why_not_cpu(loaded) if loaded.device.type == "cpu" else _why_not_fast(loaded)
    return ReferenceDecoder(loaded.model, window=window, max_slots=max_slots, why=reason or "")


KINDS = (
    Kind(name="fast", why_not=_why_not_fast, build=_fast, expects=_expects_fast, footprint=footprint.fast),
    Kind(
        name="lean",
        why_not=_why_not_cpu,
        build=_cpu,
        expects=cpu.expects,
        footprint=cpu.footprint,
    ),
    Kind(name="reference", why_not=lambda loaded: None, build=_reference),
)
"""Every decoder, best first; the last serves every model."""


def _tokenizer(folder: Path) -> Any:
    from llms.models.weights import read_tokenizer

    whole = partial(read_tokenizer, folder)
    return plain_tokenizer(folder, whole) or whole()


def _weights(job: Prepared) -> Any:
    facts, quantization, dtype, device = job.facts, job.quantization, job.dtype, job.device
    if keeps(facts, quantization, job.spec.keep_quantized):
        return quantized_weights(job.source, facts, quantization, dtype, device, job.cache, job.spec.notify)
    whole = partial(_whole, job)
    if job.decoder == "lean" and job.spec.adapter is None and fits(facts):
        try:
            return read_skeleton(facts, dtype, whole)
        except (OSError, SafetensorError):
            return whole()  # which says what is wrong
    return whole()


def _whole(job: Prepared) -> Any:
    """Load the weights as a `transformers` model; where that fails, say which file is damaged, if one is."""
    from llms.models.weights import read_weights

    try:
        return read_weights(job.facts, quantization=job.quantization, dtype=job.dtype, device=job.device)
    except DamagedCheckpoint:
        if manifest(job.facts.folder) is not None:
            verify(job.facts.folder)  # says which file, where the hashes tell
        raise


def _adapted(job: Prepared, model: Any) -> Any:
    if job.spec.adapter is None:
        return model
    from llms.models.adapter import apply_adapter

    return apply_adapter(model, Path(job.spec.adapter), job.source, merge=job.spec.merge_adapter)
