"""The lean decoder's codes, kept beside a checkpoint of the cache: to find them takes 0.5 s to 2 s of CPU.

Knows a file of tensors and what it was made of. Refuses to know weights and kernels. The file is only a
convenience: one that is missing, torn, or made of other weights, by another PyTorch or for another CPU is as
good as none, and a folder that cannot be written stays as it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llms.lean.plan import BLOCKS
from llms.models.checkpoint import MANIFEST

LAYOUT = "1"
"""To be counted up when `llms.lean.pack` orders a block in another way."""


class CodeFile:
    """The codes of one checkpoint.

    Args:
        folder: A checkpoint that was made in the cache: its manifest names the weights by their hash.
        blocks: Keep `llms.lean.pack`'s blocks. Else: what this PyTorch wants on this kind of CPU, as that
            layout depends on both.
    """

    def __init__(self, folder: Path, *, blocks: bool = False) -> None:
        made_of = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
        self.folder = folder
        self._facts = {"of": hashlib.sha256(made_of).hexdigest()}
        if blocks:
            self.path = folder / BLOCKS
            self._facts |= {"layout": LAYOUT}
        else:
            cpu = torch.backends.cpu.get_cpu_capability()
            self.path = folder / f"four-bit-{cpu.lower()}.safetensors"
            self._facts |= {"torch": torch.__version__, "cpu": cpu}

    def read(self) -> dict[str, Tensor] | None:
        """Return the tensors by name, as they lie in the mapped file; None where there are none of use."""
        try:
            with safe_open(self.path, "pt") as file:
                if file.metadata() != self._facts:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):
            return None

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors into place, whole or not at all."""
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            save_file(dict(tensors), part, metadata=self._facts)
            part.chmod(0o644)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
        except (OSError, SafetensorError):
            part.unlink(missing_ok=True)
