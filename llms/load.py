"""From a model's name to a model that can decode: the one place where the pieces of this room meet.

Knows the order of the steps, from the choice over the plan to the weights, and which decoders there are.
Refuses to know how a step is done, to know text and templates (`llms.chat`), and to fetch more than the
embedded model on its own. Importing it does not import torch; loading opens no socket once the checkpoint is
on this machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms import choose as choosing
from llms import footprint, lean_plan
from llms.catalog import AUTO, Source, cache_dir, resolve
from llms.checkpoint import Notify, manifest, silent, verify
from llms.decoders import Kind, expected, pick
from llms.errors import BadRequest, DamagedCheckpoint, NotEnoughMemory
from llms.facts import Facts, read
from llms.fetch import Progress, no_progress
from llms.footprint import FAST_BATCH, IDLE_BYTES, Setting
from llms.loaded import LoadedModel, adopt, describe
from llms.memory import Plan, free_bytes, plan
from llms.quantized import is_kept, keeps, quantized_weights
from llms.running import announce
from llms.sources import checkpoint_folder

if TYPE_CHECKING:
    from llms.decoder import Decoder

__all__ = ["KINDS", "LoadSpec", "LoadedModel", "adopt", "load", "make_decoder"]


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
        decoder: The kind of decoder that will run it, for the plan: `auto` or a name in `KINDS`.
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
    from llms.weights import read_tokenizer

    began = time.perf_counter()
    job = _prepare(spec)
    tokenizer = read_tokenizer(job.facts.folder)  # before the weights, as it costs little to find it missing
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
    known = facts.config.get("model_type") in ("mistral", "llama")
    return known and (setting.quantization, setting.dtype, setting.device[:4]) == ("nf4", "bfloat16", "cuda")


def _why_not_fast(loaded: LoadedModel) -> str | None:
    if loaded.device.type != "cuda":
        return f"it needs a CUDA GPU, the model is on {loaded.device}"
    if getattr(loaded.model, "peft_config", None):
        return "it reads the base model's weights alone, and there is an adapter; merge that (merge_adapter)"
    if loaded.source is None and free_bytes(str(loaded.device)) < 2 * loaded.model.get_memory_footprint():
        return "the model is its owner's, and there is no room for a second copy of its weights"
    from llms import fast  # only this file imports that folder, and lazily

    return fast.supports(loaded)


def _fast(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms import fast

    token = footprint.kv_bytes(loaded.model.config.to_dict(), "bfloat16")
    cache = loaded.memory.cache if loaded.memory else token * max(window, FAST_BATCH) + IDLE_BYTES
    return fast.build(
        loaded, max_slots, window, cache_tokens=cache // token, release=loaded.source is not None
    )


def _why_not_lean(loaded: LoadedModel) -> str | None:
    from llms.lean import why_not

    return why_not(loaded.model)


def _lean(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.lean import LeanDecoder

    return LeanDecoder(loaded.model, window=window, max_slots=max_slots)


def _reference(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.reference import ReferenceDecoder

    reason = _why_not_lean(loaded) if loaded.device.type == "cpu" else _why_not_fast(loaded)
    return ReferenceDecoder(loaded.model, window=window, max_slots=max_slots, why=reason or "")


KINDS = (
    Kind(name="fast", why_not=_why_not_fast, build=_fast, expects=_expects_fast, footprint=footprint.fast),
    Kind(
        name="lean",
        why_not=_why_not_lean,
        build=_lean,
        expects=lean_plan.expects,
        footprint=lean_plan.footprint,
    ),
    Kind(name="reference", why_not=lambda loaded: None, build=_reference),
)
"""Every decoder, best first; the last serves every model."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """All that was decided before the first weight is read."""

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


def _prepare(spec: LoadSpec) -> _Job:
    if spec.window is not None and spec.window < 1:
        raise BadRequest(f"expected window to be at least 1 token, found {spec.window!r}")
    if spec.slots < 1:
        raise BadRequest(f"expected slots to be at least 1, found {spec.slots!r}")
    cache = Path(spec.cache_dir) if spec.cache_dir else cache_dir()
    choice = choosing.choose(spec.model, spec.device, require_gpu=spec.require_gpu, cache=cache)
    source = resolve(choice.model, spec.revision)
    facts = read(checkpoint_folder(source, cache, notify=spec.notify, progress=spec.progress))
    quantization = choosing.quantization(
        spec.quantization, parameters=facts.parameters, stored=facts.stored_quantization
    )
    dtype = choosing.dtype(spec.dtype, quantization, choice.device)
    longest = choosing.longest(source, facts.context)
    ready = keeps(facts, quantization, spec.keep_quantized) and is_kept(
        source, facts, quantization, dtype, cache
    )
    kind, memory = _planned(
        spec,
        facts,
        Setting(
            quantization=quantization,
            dtype=dtype,
            device=choice.device,
            window=spec.window or longest,
            slots=spec.slots,
        ),
        longest=longest,
        name=source.name,
        ready=ready,
    )
    return _Job(
        spec=spec,
        cache=cache,
        source=source,
        facts=facts,
        quantization=quantization,
        dtype=dtype,
        device=choice.device,
        decoder=kind.name,
        memory=memory,
        notice=choosing.notice(source.name, choice, quantization, dtype, memory, longest),
    )


def _planned(spec: LoadSpec, facts: Facts, setting: Setting, **named: Any) -> tuple[Kind, Plan]:
    """Plan for the best decoder that has room; where none has, the last one's refusal has the numbers."""
    kinds = expected(KINDS, facts, setting, spec.decoder)
    for kind in kinds:
        try:
            return kind, plan(
                facts,
                quantization=setting.quantization,
                dtype=setting.dtype,
                device=setting.device,
                window=spec.window,
                slots=setting.slots,
                footprint=kind.footprint,
                **named,
            )
        except NotEnoughMemory:
            if kind is kinds[-1]:
                raise
    raise AssertionError("the last kind serves every model")


def _weights(job: _Job) -> Any:
    facts, quantization, dtype, device = job.facts, job.quantization, job.dtype, job.device
    if keeps(facts, quantization, job.spec.keep_quantized):
        return quantized_weights(job.source, facts, quantization, dtype, device, job.cache, job.spec.notify)
    from llms.weights import read_weights

    try:
        return read_weights(facts, quantization=quantization, dtype=dtype, device=device)
    except DamagedCheckpoint:
        if manifest(facts.folder) is not None:
            verify(facts.folder)  # says which file, where the hashes tell
        raise


def _adapted(job: _Job, model: Any) -> Any:
    if job.spec.adapter is None:
        return model
    from llms.adapter import apply_adapter

    return apply_adapter(model, Path(job.spec.adapter), job.source, merge=job.spec.merge_adapter)
