"""From a model's name to a model that can decode: the one place where the pieces of this room meet.

Knows the order of the steps, from what was prepared over the weights to the adapter, and which decoders there
are. Refuses to know how a step is done, to know text and templates (`llms.chat`), and to fetch more than the
embedded model on its own. Importing it does not import torch; loading opens no socket once the checkpoint is
on this machine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from llms import footprint
from llms.checkpoint.facts import Facts
from llms.checkpoint.folder import manifest, verify
from llms.checkpoint.quantized import keeps, quantized_weights
from llms.checkpoint.skeleton import read_skeleton
from llms.checkpoint.skeleton_layout import fits
from llms.checkpoint.tokenizer import plain_tokenizer
from llms.decoders import Kind, pick
from llms.errors import DamagedCheckpoint
from llms.footprint import FAST_BATCH, IDLE_BYTES, Setting
from llms.lean import plan as lean_plan
from llms.loaded import LoadedModel, adopt, describe
from llms.memory import free_bytes
from llms.prepare import LoadSpec, Prepared, prepare
from llms.running import announce

if TYPE_CHECKING:
    from llms.decoder import Decoder

__all__ = ["KINDS", "LoadSpec", "LoadedModel", "adopt", "load", "make_decoder"]


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
    from llms.lean.decoder import why_not

    return why_not(loaded.body)


def _lean(loaded: LoadedModel, max_slots: int, window: int) -> Decoder:
    from llms.lean.codes import CodeFile
    from llms.lean.decoder import LeanDecoder

    ours = loaded.folder and loaded.source and loaded.source.kind in ("embedded", "gguf")
    codes = CodeFile(loaded.folder) if ours and loaded.folder else None
    return LeanDecoder(loaded.body, window=window, max_slots=max_slots, codes=codes)


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


def _tokenizer(folder: Path) -> Any:
    from llms.checkpoint.weights import read_tokenizer

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
    from llms.checkpoint.weights import read_weights

    try:
        return read_weights(job.facts, quantization=job.quantization, dtype=job.dtype, device=job.device)
    except DamagedCheckpoint:
        if manifest(job.facts.folder) is not None:
            verify(job.facts.folder)  # says which file, where the hashes tell
        raise


def _adapted(job: Prepared, model: Any) -> Any:
    if job.spec.adapter is None:
        return model
    from llms.adapter import apply_adapter

    return apply_adapter(model, Path(job.spec.adapter), job.source, merge=job.spec.merge_adapter)
