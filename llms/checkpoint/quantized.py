"""4-bit checkpoints: a model is quantized once, kept in the cache, and loaded from there from then on.

Knows where they lie and what makes one valid: the source's revision or content, the quantization settings and
the version of bitsandbytes. Refuses to know how weights are read (`llms.checkpoint.weights`). For Mistral-7B
on an H100 that is 1.7 s instead of minutes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llms.catalog import Source
from llms.checkpoint.facts import Facts, read, weight_files
from llms.checkpoint.folder import Notify, damage, locked, manifest, require_space, staging
from llms.checkpoint.weights import read_weights
from llms.choose import SMALL
from llms.errors import DamagedCheckpoint, MachineError, QuantizationUnavailable
from llms.footprint import weight_bytes
from llms.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_RECIPE = 1  # raise it when what is written changes


def quantized_path(source: Source, facts: Facts, quantization: str, dtype: str, cache: Path) -> Path:
    """Return where the 4-bit checkpoint of a source belongs, whether or not it is there."""
    key = {
        "source": _identity(source, facts),
        "quantization": quantization,
        "dtype": dtype,
        "double_quantization": True,
        "bitsandbytes": _version(quantization),
        "recipe": _RECIPE,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / "quantized" / f"{slug(source)}-{quantization}-{digest[:10]}"


def keeps(facts: Facts, quantization: str, wish: bool | None) -> bool:
    """Tell whether a 4-bit checkpoint of a model is kept: as wished, else from a billion parameters on."""
    if facts.stored_quantization is not None or quantization not in ("nf4", "fp4"):
        return False
    return facts.parameters >= SMALL if wish is None else wish


def is_kept(source: Source, facts: Facts, quantization: str, dtype: str, cache: Path) -> bool:
    """Tell whether a source's 4-bit checkpoint is in the cache, whole."""
    return damage(quantized_path(source, facts, quantization, dtype, cache)) is None


def kept(source: Source, cache: Path) -> list[Path]:
    """List a source's 4-bit checkpoints in the cache, sorted; of its names' longer cousins none."""
    own = re.compile(re.escape(slug(source)) + r"-(nf4|fp4)-[0-9a-f]{10}")
    found = (cache / "quantized").glob("*")
    return sorted(path for path in found if path.is_dir() and own.fullmatch(path.name))


def slug(source: Source) -> str:
    """Return a source's name as one path component."""
    return source.name.replace("/", "--")


def quantized_weights(
    source: Source,
    facts: Facts,
    quantization: str,
    dtype: str,
    device: str,
    cache: Path,
    notify: Notify,
) -> PreTrainedModel:
    """Load a model in 4 bits from its checkpoint in the cache, making that first where it has to be.

    Where the cache has no room or cannot be written, the model is quantized all the same, and a line says
    that it was not kept.

    Raises:
        LLMError: What `llms.checkpoint.weights.read_weights` raises.
    """
    target = quantized_path(source, facts, quantization, dtype, cache)
    if damage(target) is None:
        try:
            return read_weights(read(target), quantization=quantization, dtype=dtype, device=device)
        except DamagedCheckpoint as error:
            notify(f"the 4-bit checkpoint of {source.name} is damaged ({error}); making it anew")
            shutil.rmtree(target, ignore_errors=True)
    try:
        with locked(target, notify):
            if damage(target) is None:  # another process made it while this one waited
                return read_weights(read(target), quantization=quantization, dtype=dtype, device=device)
            return _make(source, facts, quantization, dtype, device, target, notify)
    except MachineError as error:
        if isinstance(error, MemoryError):
            raise
        notify(f"the 4-bit checkpoint of {source.name} is not kept: {error}")
    return read_weights(facts, quantization=quantization, dtype=dtype, device=device)


def _make(
    source: Source,
    facts: Facts,
    quantization: str,
    dtype: str,
    device: str,
    target: Path,
    notify: Notify,
) -> PreTrainedModel:
    require_space(
        target.parent,
        weight_bytes(facts, quantization, dtype) + 2**26,
        f"the 4-bit checkpoint of {source.name}",
    )
    notify(f"quantizing {source.name} to {quantization}, once; the next start loads it from {target}")
    model = read_weights(facts, quantization=quantization, dtype=dtype, device=device)
    with staging(target, {"model": source.name, "source": _identity(source, facts)}) as folder, quiet():
        model.save_pretrained(folder)
    return model


def _version(quantization: str) -> str:
    try:
        return importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError as error:
        raise QuantizationUnavailable(
            f"expected bitsandbytes for {quantization}, found it missing; `pip install bitsandbytes`, or do "
            "without: --quantization none"
        ) from error


def _identity(source: Source, facts: Facts) -> str:
    if source.kind == "hub":
        return f"{source.location}@{facts.folder.name}"  # the snapshot's folder is named by its commit
    if (found := manifest(facts.folder)) is not None:
        return json.dumps(found["files"], sort_keys=True)
    files = ((path, path.stat()) for path in weight_files(facts.folder))
    return json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files])
