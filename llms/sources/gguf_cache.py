"""Converted GGUF files: each becomes a safetensors checkpoint once, and is found by path and time.

Knows where such checkpoints lie in the cache. Refuses to know how a GGUF is read (`llms.checkpoint.convert`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from llms.checkpoint.folder import Notify, damage, locked, require_space, silent, staging


def converted_path(gguf: Path, cache: Path) -> Path:
    """Return where a GGUF file's checkpoint belongs; a file of another size or time has another one."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:8]
    return cache / "gguf" / f"{gguf.stem}-{key}"


def converted(gguf: Path, cache: Path, *, notify: Notify = silent) -> Path:
    """Return a GGUF file's checkpoint folder, converting it first where it is missing or damaged.

    Raises:
        DamagedCheckpoint: The file is cut short, or is no GGUF.
        UnsupportedModel: Its quantization or architecture cannot be read.
        NoSpace: No room for the bfloat16 weights.
        CacheNotWritable: The cache cannot be written.
    """
    target = converted_path(gguf, cache)
    if damage(target) is None:
        return target
    from llms.checkpoint.convert import convert_gguf, inspect_gguf

    facts = inspect_gguf(gguf)
    with locked(target, notify):
        if damage(target) is None:
            return target
        require_space(target.parent, 2 * facts["parameters"] + 2**24, f"converting {gguf.name}")
        notify(f"converting {gguf.name} to a checkpoint in {target.parent} (once)")
        with staging(target, {"gguf": str(gguf), "quantization": facts["quantization"]}) as folder:
            convert_gguf(gguf, folder)
    return target
