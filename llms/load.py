"""From a model's name to a model that can decode: the one place where the pieces of this room meet.

Knows sources, checkpoints, quantization, devices and decoders. Refuses to know text and templates
(`llms.chat`), and to fetch more than the embedded model on its own. Importing it does not import torch;
loading opens no socket once the checkpoint is on this machine.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llms import choose as choosing
from llms import facts as reading
from llms.catalog import AUTO, Source, cache_dir, resolve
from llms.checkpoint import Notify, damage, manifest, silent, verify
from llms.errors import BadRequest, DamagedCheckpoint, UnknownModel, UnsupportedModel
from llms.fetch import Progress, no_progress
from llms.gpu import gpus
from llms.memory import Plan, plan
from llms.running import announce

if TYPE_CHECKING:
    import torch

    from llms.choose import Choice
    from llms.decoder import Decoder
    from llms.facts import Facts

DTYPES = ("bfloat16", "float16", "float32")
DecoderKind = Literal["auto", "reference", "fast"]


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
    cache_dir: Path | None = None
    keep_quantized: bool | None = None
    require_gpu: bool = False
    notify: Notify = field(default=silent, compare=False)
    progress: Progress = field(default=no_progress, compare=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that is ready to decode.

    Attributes:
        model: The `transformers` model (or a PEFT model around it), in eval mode.
        tokenizer: Its tokenizer, as `transformers` has it.
        name: How to name it to people.
        source: Where it came from; None for one that was handed over loaded.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What it computes in.
        device: Where it is.
        window: Longest sequence in tokens, prompt and answer together.
        parameters: Number of weights.
        sliding_window: How far back attention reaches, in tokens; None for all the way.
        chat_template: Whether the tokenizer has a chat template.
        memory: What it was expected to take; None for one that was handed over loaded.
        load_s: How long loading took, in seconds.
        folder: The checkpoint that was read; None for one that was handed over loaded.
        notice: The one line about the choice of model and device; empty where there is nothing to say.
    """

    model: Any
    tokenizer: Any
    name: str
    source: Source | None
    quantization: str
    dtype: torch.dtype
    device: torch.device
    window: int
    parameters: int
    sliding_window: int | None = None
    chat_template: bool = True
    memory: Plan | None = None
    load_s: float = 0.0
    folder: Path | None = None
    notice: str = ""


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
    _check(spec)
    cache = Path(spec.cache_dir) if spec.cache_dir else cache_dir()
    choice = choosing.choose(spec.model, spec.device, require_gpu=spec.require_gpu, cache=cache)
    source = resolve(choice.model, spec.revision)
    folder = checkpoint_folder(source, cache, notify=spec.notify, progress=spec.progress)
    facts = _tokenizer_too(reading.read(folder))
    quantization = choosing.quantization(
        spec.quantization, parameters=facts.parameters, stored=facts.stored_quantization
    )
    dtype = _dtype(spec.dtype, quantization, choice.device)
    window = _longest(source, facts)
    memory = plan(
        facts, quantization=quantization, dtype=dtype, device=choice.device, window=spec.window,
        longest=window, slots=spec.slots, name=source.name,
        ready=_is_kept(spec, source, facts, quantization, dtype, cache),
    )  # fmt: skip
    notice = _notice(source, choice, quantization, dtype, memory, window)
    if notice:
        spec.notify(notice)
    model = _weights(spec, source, facts, quantization, dtype, choice.device, cache)
    model = _adapted(spec, source, model)
    tokenizer = _tokenizer(folder)
    announce(
        cache, name=source.name, device=choice.device, quantization=quantization, window=memory.window,
        memory=memory.total,
    )  # fmt: skip
    loaded = _describe(model, tokenizer, source.name, memory.window)
    return replace(
        loaded,
        source=source,
        quantization=quantization,
        parameters=facts.parameters,
        memory=memory,
        folder=folder,
        notice=notice,
        load_s=time.perf_counter() - began,
    )


def adopt(model: Any, tokenizer: Any, *, name: str | None = None, window: int | None = None) -> LoadedModel:
    """Describe a `transformers` or PEFT model that the caller has loaded already.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        name: How to name it; None for the name it was loaded by.
        window: Longest sequence in tokens; None for what its configuration says.

    Raises:
        BadRequest: The window is longer than the model knows, or the model has weights on no device.
    """
    longest = int(getattr(model.config, "max_position_embeddings", None) or 2048)
    if window is not None and not 1 <= window <= longest:
        raise BadRequest(f"expected window from 1 to {longest:,} tokens, found {window!r}")
    shown = name or Path(str(getattr(model.config, "_name_or_path", "") or "model")).name
    return _describe(model, tokenizer, shown, window or longest)


def make_decoder(
    loaded: LoadedModel, *, max_slots: int = 64, window: int | None = None, kind: str = "auto"
) -> Decoder:
    """Build the decoder that fits a loaded model.

    Args:
        loaded: The model.
        max_slots: Most sequences at once.
        window: Longest sequence in tokens; None for the model's.
        kind: `reference` (plain transformers), `fast`, or `auto`: fast where it serves this model and device.

    Raises:
        BadRequest: No such kind.
        UnsupportedModel: `fast` was asked for and does not serve this model or device.
    """
    if kind not in ("auto", "reference", "fast"):
        raise BadRequest(f"expected decoder to be auto, reference or fast, found {kind!r}")
    window = window or loaded.window
    if kind != "reference":
        decoder = _fast(loaded, max_slots, window, required=kind == "fast")
        if decoder is not None:
            return decoder
    from llms.reference import ReferenceDecoder

    return ReferenceDecoder(loaded.model, window=window, max_slots=max_slots)


def checkpoint_folder(
    source: Source, cache: Path, *, notify: Notify = silent, progress: Progress = no_progress
) -> Path:
    """Return the folder with a source's weights, fetching the embedded model and converting a GGUF.

    Raises:
        UnknownModel: A Hub model that is not on this machine; the message has the command that brings it.
        LLMError: What fetching or converting raises.
    """
    if source.kind == "embedded":
        from llms.fetch import embedded_checkpoint

        return embedded_checkpoint(cache, notify=notify, progress=progress, entry=source.entry)
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "gguf":
        from llms.gguf_cache import converted

        return converted(Path(source.location), cache, notify=notify)
    from llms.hub import locate

    found = locate(source.location, source.revision, cache)
    if found is None:
        at = f" at revision {source.revision!r}" if source.revision else ""
        size = f" ({source.entry.download_bytes / 1e9:.1f} GB)" if source.entry else ""
        raise UnknownModel(
            f"expected {source.location!r}{at} on this machine, found nothing in {str(cache / 'hub')!r}; run "
            f"`agent models pull {source.name}`{size}, or use `--model smollm2-135m`"
        )
    return found


def _check(spec: LoadSpec) -> None:
    if spec.dtype is not None and spec.dtype not in DTYPES:
        raise BadRequest(f"expected dtype to be one of {', '.join(DTYPES)}, found {spec.dtype!r}")
    if spec.window is not None and spec.window < 1:
        raise BadRequest(f"expected window to be at least 1 token, found {spec.window!r}")
    if spec.slots < 1:
        raise BadRequest(f"expected slots to be at least 1, found {spec.slots!r}")


def _dtype(asked: str | None, quantization: str, device: str) -> str:
    if asked:
        return asked
    if quantization == "int8":
        return "float16"  # bitsandbytes' 8-bit product casts everything else to it
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        return "bfloat16" if any(gpu.bf16 for gpu in gpus() if gpu.index == index) else "float16"
    return "bfloat16"


def _longest(source: Source, facts: Facts) -> int:
    # The catalog knows better where a published config promises more than the model was trained for.
    return min(facts.context, source.entry.context) if source.entry else facts.context


def _tokenizer_too(facts: Facts) -> Facts:
    if not facts.tokenizer:
        raise UnsupportedModel(
            f"expected a tokenizer ({', '.join(reading.TOKENIZERS)}) in {str(facts.folder)!r}, found none; "
            "copy it from the base model's repository"
        )
    return facts


def _notice(source: Source, choice: Choice, quantization: str, dtype: str, memory: Plan, longest: int) -> str:
    weights = dtype if quantization == "none" else f"{quantization}, {dtype}"
    parts = [f"model: {source.name} ({weights}) on {choice.device}"]
    if choice.why:
        parts.append(f": {choice.why}; for better: {choice.better}")
    if memory.window < longest:
        parts.append(f"; window {memory.window:,} of {longest:,} tokens")
    return "".join(parts) if choice.why or memory.narrowed else ""


def _weights(
    spec: LoadSpec, source: Source, facts: Facts, quantization: str, dtype: str, device: str, cache: Path
) -> Any:
    from llms.weights import read_weights

    if _keeps(spec, facts, quantization):
        from llms.quantized import quantized_weights

        return quantized_weights(source, facts, quantization, dtype, device, cache, spec.notify)
    try:
        return read_weights(facts, quantization=quantization, dtype=dtype, device=device)
    except DamagedCheckpoint:
        if manifest(facts.folder) is not None:
            verify(facts.folder)  # says which file, where the hashes tell
        raise


def _keeps(spec: LoadSpec, facts: Facts, quantization: str) -> bool:
    """Tell whether a 4-bit checkpoint of this model is kept in the cache."""
    if facts.stored_quantization is not None or quantization not in ("nf4", "fp4"):
        return False
    return facts.parameters >= choosing.SMALL if spec.keep_quantized is None else spec.keep_quantized


def _is_kept(
    spec: LoadSpec, source: Source, facts: Facts, quantization: str, dtype: str, cache: Path
) -> bool:
    if not _keeps(spec, facts, quantization):
        return False
    from llms.quantized import quantized_path

    return damage(quantized_path(source, facts, quantization, dtype, cache)) is None


def _adapted(spec: LoadSpec, source: Source, model: Any) -> Any:
    if spec.adapter is None:
        return model
    from llms.adapter import apply_adapter

    return apply_adapter(model, Path(spec.adapter), source, merge=spec.merge_adapter)


def _tokenizer(folder: Path) -> Any:
    from llms.weights import read_tokenizer

    return read_tokenizer(folder)


def _describe(model: Any, tokenizer: Any, name: str, window: int) -> LoadedModel:
    import torch

    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None or weight.device.type == "meta":
        raise BadRequest(
            "expected a model with weights on a device, found none; load it before handing it over"
        )
    method = getattr(model.config, "quantization_config", None)
    quantization = "none"
    if getattr(model, "is_loaded_in_8bit", False):
        quantization = "int8"
    elif getattr(model, "is_loaded_in_4bit", False):
        quantization = str(getattr(method, "bnb_4bit_quant_type", "fp4"))
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        source=None,
        quantization=quantization,
        dtype=weight.dtype,
        device=torch.device(weight.device),
        window=window,
        parameters=sum(p.numel() for p in model.parameters()),
        sliding_window=getattr(model.config, "sliding_window", None),
        chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )


def _fast(loaded: LoadedModel, max_slots: int, window: int, *, required: bool) -> Decoder | None:
    if loaded.device.type != "cuda" and not required:
        return None
    fast: Any = importlib.import_module("llms.fast")  # the only import of that folder, and a lazy one
    reason = fast.why_not(loaded.model)
    if reason is None:
        decoder: Decoder = fast.FastDecoder(loaded.model, max_slots=max_slots, window=window)
        return decoder
    if required:
        raise UnsupportedModel(
            f"expected a model that the fast decoder serves, found: {reason}; use 'reference'"
        )
    return None
