"""What was made of a part, kept by the hash of what it was made from.

Knows keys and small JSON values; knows no summary. A folder holds one file a key, written beside and moved
into place, so a run that is killed leaves whole files only; a file that cannot be read counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

VERSION = 2
"""Part of each key: a change of the method makes what older versions kept unreachable."""


def key(*parts: Any) -> str:
    """Return the key for what is made from `parts`, which JSON can hold."""
    told = json.dumps([VERSION, *parts], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()


class FolderCache(MutableMapping[str, str]):
    """A mapping kept as files of a folder, which is made on the first write."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder's path."""
        self.folder = folder

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def __getitem__(self, name: str) -> str:
        try:
            return self._path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{name}.{os.getpid()}.part"
        beside.write_text(value, encoding="utf-8")
        beside.replace(self._path(name))

    def __delitem__(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except OSError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)
