"""What a user decided about models, in one small file: the default and the aliases.

Knows the file and its shape. Refuses to know whether what is written there is a model. A file that is missing
or is not what was written counts as no wishes; a write replaces it whole, so a kill leaves the old one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llms.catalog import AUTO
from llms.checkpoint.folder import disk_errors


class Wishes:
    """The default model and the aliases of one user.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def default(self) -> str:
        """Return the model that the user chose, `auto` where none was."""
        found = self._read().get("default")
        return found if isinstance(found, str) and found else AUTO

    @property
    def aliases(self) -> dict[str, str]:
        """Return the user's aliases: name -> what it stands for."""
        found = self._read().get("aliases")
        pairs = found.items() if isinstance(found, dict) else ()
        return {name: target for name, target in pairs if isinstance(target, str)}

    def keep(self, *, default: str | None = None, aliases: dict[str, str] | None = None) -> None:
        """Write down a wish; what is None stays as it was.

        Raises:
            NoSpace: The disk is full.
            CacheNotWritable: The file cannot be written.
        """
        wishes = {
            "default": self.default if default is None else default,
            "aliases": self.aliases if aliases is None else aliases,
        }
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps(wishes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
