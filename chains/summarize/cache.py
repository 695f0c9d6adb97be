"""What was made of a part, kept by the hash of what it was made from.

Knows keys and small JSON values; knows no summary. A folder holds one file a key, written beside and moved
into place, so a run that is killed leaves whole files only; a file that cannot be read counts as absent. A
folder keeps to a size: what was not used for longest goes first.
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
"""Part of each key: a change of the method makes what older versions kept unreachable."""


MAX_BYTES = 64_000_000
"""A part takes about 2 kB: what was made of some thirty books."""

LOOKS = 16
"""A folder is looked through at the first write, and again when a 16th of its size has been written."""

STALE_S = 3600.0
"""Age of a half-written file whose writer is taken to be gone."""


def key(*parts: Any) -> str:
    """Return the key for what is made from `parts`, which JSON can hold."""
    told = json.dumps([VERSION, *parts], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()


class FolderCache(MutableMapping[str, str]):
    """A mapping kept as files of a folder, which is made on the first write.

    Args:
        folder: Where the files are; several processes may share it.
        max_bytes: How much stays on the disk; for a while the folder may be larger by a 16th and one value.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._unseen = max_bytes  # bytes written since the folder was looked through

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def __getitem__(self, name: str) -> str:
        path = self._path(name)
        try:
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise KeyError(name) from None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return found

    def __setitem__(self, name: str, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{name}.{os.getpid()}.part"
        beside.write_text(value, encoding="utf-8")
        beside.replace(self._path(name))
        self._unseen += len(value)
        if self._unseen * LOOKS > self.max_bytes:
            self._prune(name)
            self._unseen = 0

    def _prune(self, last: str) -> None:
        """Delete what was not used for longest until the rest fits (never `last`), and stale halves."""
        used: list[tuple[int, int, Path]] = []
        over = -self.max_bytes
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may have deleted it
                facts = path.stat()
                if path.suffix == ".json":
                    over += facts.st_size
                    used.append((facts.st_mtime_ns, facts.st_size, path))
                elif path.suffix == ".part" and time.time() - facts.st_mtime > STALE_S:
                    path.unlink()
        for _, size, path in sorted(used):
            if over > 0 and path.stem != last:
                with contextlib.suppress(OSError):
                    path.unlink()
                over -= size

    def __delitem__(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except OSError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)
