"""Models that transformers loads: `from_pretrained`, bitsandbytes' quantization, kept 4-bit checkpoints.

A model that is quantized to 4 bits is kept in the cache and loaded from there from then on
(`quantized_model`): for Mistral-7B on an H100 that takes 1.7 s instead of minutes. A kept checkpoint is valid
for one content or revision of the source, one set of quantization settings and one bitsandbytes version.

Loading never runs code from a checkpoint and never uses the network. A missing or misshapen tensor is an
error here; transformers alone would fill it with random numbers, and the answers would be garbage.

    >>> from llms.models.pretrained import read_model
    >>> how = {"quantization": "nf4", "dtype": "bfloat16", "device": "cuda:0"}
    >>> model = read_model(checkpoint, **how)  # doctest: +SKIP
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import (
    DamagedCheckpoint,
    MachineError,
    NotEnoughMemory,
    QuantizationUnavailable,
    UnsupportedModel,
)
from llms.models.catalog import SMALL, Source
from llms.models.checkpoint import (
    Checkpoint,
    Notify,
    damage,
    locked,
    manifest,
    require_space,
    staging,
    verify,
    weight_files,
)
from llms.models.memory import weight_bytes
from llms.quiet import quiet

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

_RECIPE = 1  # count it up when the content of a kept checkpoint changes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


# ---- Reading -----------------------------------------------------------------------------------


def read_model(checkpoint: Checkpoint, *, quantization: str, dtype: str, device: str) -> PreTrainedModel:
    """Return a checkpoint's model on a device, in eval mode, quantized while it is read if asked for.

    Args:
        checkpoint: The checkpoint.
        quantization: `nf4`, `fp4`, `int8` or `none`; for a checkpoint that is stored quantized, that one.
        dtype: `bfloat16`, `float16` or `float32`.
        device: `cpu` or `cuda:N`.

    Raises:
        DamagedCheckpoint: A tensor is missing, a shape is not that of the configuration, or a file does not
            have the recorded hash.
        UnsupportedModel: transformers has no such architecture.
        NotEnoughMemory: The device ran out while loading.
        QuantizationUnavailable: bitsandbytes is missing or does not run here.
    """
    import torch

    settings: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": "sdpa",
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if quantization != "none" or device != "cpu":
        settings["device_map"] = {"": device}
    if quantization != "none" and checkpoint.stored_quantization is None:
        settings["quantization_config"] = bits_and_bytes(quantization, dtype)
    architecture = _architecture(checkpoint)
    converts = device == "cpu" and (quantization, dtype) != (
        checkpoint.stored_quantization or "none",
        checkpoint.stored_dtype,
    )
    with quiet(), _frugal() if converts else nullcontext():
        try:
            model, info = architecture.from_pretrained(str(checkpoint.folder), **settings)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise NotEnoughMemory(
                f"{device} ran out of memory while {str(checkpoint.folder)!r} was loading ({error}); end "
                'other programs, or use quantization="nf4" or a smaller model'
            ) from error
        except (ImportError, NotImplementedError) as error:
            raise QuantizationUnavailable(
                f"expected bitsandbytes to load {quantization} on {device}, found: {error}; "
                '`llms.diagnose()` says what to mend, quantization="none" does without'
            ) from error
        except Exception as error:
            _name_damaged_file(checkpoint)
            raise DamagedCheckpoint(
                f"expected {checkpoint.architecture} in {str(checkpoint.folder)!r}, found weights that do "
                f"not load: {error}; fetch it again"
            ) from error
    _check_complete(info, checkpoint)
    if converts:
        _unmap(model)
    elif device == "cpu" and quantization != "none":
        _tune_malloc()
    return model.eval()


def bits_and_bytes(quantization: str, dtype: str) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings; those of `nf4` are the QLoRA recipe (arXiv:2305.14314).

    >>> bits_and_bytes("nf4", "bfloat16").bnb_4bit_use_double_quant
    True

    Args:
        quantization: `nf4` or `fp4` (4 bits, double quantization), or `int8`.
        dtype: The dtype of the computation.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _architecture(checkpoint: Checkpoint) -> Any:
    import transformers

    name = checkpoint.architecture
    if not name:
        return transformers.AutoModelForCausalLM
    # The name is data from the checkpoint, so only classes that transformers itself ships are used.
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UnsupportedModel(
            f"expected an architecture of transformers {transformers.__version__}, found {name!r} in "
            f"{str(checkpoint.folder / 'config.json')!r}; update transformers, or take another model"
        )
    return found


def _check_complete(info: Any, checkpoint: Checkpoint) -> None:
    missing = sorted(getattr(info, "missing_keys", None) or info["missing_keys"])
    mismatched = sorted(str(key) for key in getattr(info, "mismatched_keys", None) or info["mismatched_keys"])
    if missing or mismatched:
        _name_damaged_file(checkpoint)
        folder = str(checkpoint.folder)
        what = f"{len(missing)} missing ({missing[:3]})" if missing else f"{mismatched[:3]} of another shape"
        raise DamagedCheckpoint(
            f"expected every tensor of {checkpoint.architecture} in {folder!r}, found {what}; fetch it again"
        )


def _name_damaged_file(checkpoint: Checkpoint) -> None:
    if manifest(checkpoint.folder) is not None:
        verify(checkpoint.folder)


@contextmanager
def _frugal() -> Iterator[None]:
    """Keep the host's peak near the file plus the weights while weights are converted.

    Otherwise the embedded model in NF4 takes 550 to 790 MB instead of 410, for two reasons. transformers
    reads tensors ahead in threads, so that much of the file waits in memory; it has a switch against that.
    And glibc keeps the freed intermediate results of quantization.
    """
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    _malloc("mallopt", _MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _tune_malloc()
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _tune_malloc() -> None:
    """Set glibc's thresholds to the values that it reaches by itself after large blocks were freed.

    By itself it reaches them late and by chance: unpacking matrices for the first prompt of the embedded
    model in NF4 then takes 285 to 440 MB from run to run, and 283 to 302 MB with these values set.
    """
    _malloc("mallopt", _MMAP_THRESHOLD, 32 << 20)
    _malloc("mallopt", _TRIM_THRESHOLD, 64 << 20)


def _malloc(function: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError):  # only glibc has these
        getattr(ctypes.CDLL(None), function)(*arguments)


def _unmap(model: PreTrainedModel) -> None:
    """Copy the tensors that still lie in the mapped file, because one of them keeps all of it in memory."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()
    gc.collect()
    _malloc("malloc_trim", 0)


# ---- Kept 4-bit checkpoints --------------------------------------------------------------------


def quantized_model(
    source: Source,
    checkpoint: Checkpoint,
    quantization: str,
    dtype: str,
    device: str,
    cache: Path,
    notify: Notify,
) -> PreTrainedModel:
    """Return a model in 4 bits from its kept checkpoint, which is made first if it is missing or damaged.

    If the cache has no room or cannot be written, the model is quantized all the same, and a notice says that
    it was not kept.

    Raises:
        LLMError: What `read_model` raises.
    """
    target = quantized_path(source, checkpoint, quantization, dtype, cache)
    if damage(target) is None:
        try:
            return read_model(Checkpoint.open(target), quantization=quantization, dtype=dtype, device=device)
        except DamagedCheckpoint as error:
            notify(f"the 4-bit checkpoint of {source.name} is damaged ({error}); making it again")
            shutil.rmtree(target, ignore_errors=True)
    try:
        with locked(target, notify):
            if damage(target) is None:  # another process made it while this one waited
                return read_model(
                    Checkpoint.open(target), quantization=quantization, dtype=dtype, device=device
                )
            return _make(source, checkpoint, quantization, dtype, device, target, notify)
    except MachineError as error:
        if isinstance(error, MemoryError):
            raise
        notify(f"the 4-bit checkpoint of {source.name} is not kept: {error}")
    return read_model(checkpoint, quantization=quantization, dtype=dtype, device=device)


def _make(
    source: Source,
    checkpoint: Checkpoint,
    quantization: str,
    dtype: str,
    device: str,
    target: Path,
    notify: Notify,
) -> PreTrainedModel:
    require_space(
        target.parent,
        weight_bytes(checkpoint, quantization, dtype) + 2**26,
        f"the 4-bit checkpoint of {source.name}",
    )
    notify(f"quantizing {source.name} to {quantization}, once; the next start loads it from {target}")
    model = read_model(checkpoint, quantization=quantization, dtype=dtype, device=device)
    with staging(target, {"model": source.name, "source": _identity(source, checkpoint)}) as folder, quiet():
        model.save_pretrained(folder)
    return model


def quantized_path(
    source: Source, checkpoint: Checkpoint, quantization: str, dtype: str, cache: Path
) -> Path:
    """Return the place of a source's kept 4-bit checkpoint, whether or not it exists."""
    key = {
        "source": _identity(source, checkpoint),
        "quantization": quantization,
        "dtype": dtype,
        "double_quantization": True,
        "bitsandbytes": _version(quantization),
        "recipe": _RECIPE,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / "quantized" / f"{slug(source)}-{quantization}-{digest[:10]}"


def keeps(checkpoint: Checkpoint, quantization: str, keep: bool | None) -> bool:
    """Return whether a model's 4-bit checkpoint is kept; by default if it has a billion weights or more."""
    if checkpoint.stored_quantization is not None or quantization not in ("nf4", "fp4"):
        return False
    return checkpoint.parameters >= SMALL if keep is None else keep


def is_kept(source: Source, checkpoint: Checkpoint, quantization: str, dtype: str, cache: Path) -> bool:
    """Return whether a source's 4-bit checkpoint is whole in the cache."""
    return damage(quantized_path(source, checkpoint, quantization, dtype, cache)) is None


def kept(source: Source, cache: Path) -> list[Path]:
    """Return a source's 4-bit checkpoints in the cache, sorted, without those of longer names."""
    own = re.compile(re.escape(slug(source)) + r"-(nf4|fp4)-[0-9a-f]{10}")
    found = (cache / "quantized").glob("*")
    return sorted(path for path in found if path.is_dir() and own.fullmatch(path.name))


def slug(source: Source) -> str:
    """Return a source's name as one path component."""
    return source.name.replace("/", "--")


def _identity(source: Source, checkpoint: Checkpoint) -> str:
    if source.kind == "hub":
        return f"{source.location}@{checkpoint.folder.name}"  # the snapshot's folder is named by its commit
    if (found := manifest(checkpoint.folder)) is not None:
        return json.dumps(found["files"], sort_keys=True)
    files = ((path, path.stat()) for path in weight_files(checkpoint.folder))
    return json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files])


def _version(quantization: str) -> str:
    try:
        return importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError as error:
        raise QuantizationUnavailable(
            f"expected bitsandbytes for {quantization}, found it missing; `pip install bitsandbytes`, or do "
            'without: quantization="none"'
        ) from error
