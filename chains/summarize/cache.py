"""A cache in a folder, for what was made of each part of a text.

Each value is a file named by its key. It is written under another name and then moved into place, so a run
that is killed leaves whole files only; a file that cannot be read counts as absent. If the folder is too
large, the values that were not used for longest are deleted.

    >>> import tempfile
    >>> cache = FolderCache(Path(tempfile.mkdtemp()))
    >>> key = cache_key("part", "smollm2-135m", "The text of the part.")
    >>> cache[key] = "Its summary."
    >>> cache[key], len(cache)
    ('Its summary.', 1)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

VERSION = 2
"""Part of each key. Raise it when the method changes, so that values of older versions are not found."""

MAX_BYTES = 64_000_000
"""A part takes about 2 kB, so this holds the parts of some thirty books."""

PRUNE_SHARE = 16
"""The folder is pruned at the first write, and then whenever 1/16 of `max_bytes` has been written."""

STALE_S = 3600.0
"""Age at which a half-written file is taken to be left over from a process that died."""


def cache_key(*parts: Any) -> str:
    """Return the key of a value that is made from `parts`, which must be JSON data."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()


class FolderCache(MutableMapping[str, str]):
    """A mapping of strings whose values are files of a folder.

    Args:
        folder: Created on the first write. Several processes may share it.
        max_bytes: Size of the folder. It may be exceeded by 1/16 and one value between two prunings.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._written = max_bytes  # bytes since the last pruning; the first write prunes

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def __getitem__(self, name: str) -> str:
        path = self._path(name)
        try:
            value = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise KeyError(name) from None
        with contextlib.suppress(OSError):
            os.utime(path)  # marks the value as used
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.{os.getpid()}.part"
        partial.write_text(value, encoding="utf-8")
        partial.replace(self._path(name))
        self._written += len(value)
        if self._written * PRUNE_SHARE > self.max_bytes:
            self._prune(name)
            self._written = 0

    def _prune(self, last: str) -> None:
        """Delete stale partial files, and the values longest unused until the rest fits (never `last`)."""
        used: list[tuple[int, int, Path]] = []
        excess = -self.max_bytes
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may have deleted it
                facts = path.stat()
                if path.suffix == ".json":
                    excess += facts.st_size
                    used.append((facts.st_mtime_ns, facts.st_size, path))
                elif path.suffix == ".part" and time.time() - facts.st_mtime > STALE_S:
                    path.unlink()
        for _, size, path in sorted(used):
            if excess > 0 and path.stem != last:
                with contextlib.suppress(OSError):
                    path.unlink()
                excess -= size

    def __delitem__(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except OSError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)
