"""The Hub's models on this machine: where they lie, which are whole, and what the record says of them.

Knows folders and one record a repository. Refuses to use the network, and to import torch: `locate` costs a
few `stat` calls. Besides this application's own cache it finds what other programs left in the Hub's common
one, which it never changes.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llms.checkpoint.facts import TOKENIZERS, weight_files
from llms.checkpoint.folder import disk_errors, folder_bytes, locked
from llms.errors import LLMError

_RECORD = "pulled.json"


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A model that was pulled.

    Attributes:
        repo: Its Hub id.
        revision: What was asked for: a branch, tag or commit.
        commit: The commit that it stood for.
        folder: The checkpoint.
        size: Its size in bytes.
    """

    repo: str
    revision: str
    commit: str
    folder: Path
    size: int


def locate(repo: str, revision: str | None, cache: Path) -> Path | None:
    """Return the folder of a model that is on this machine, whole; None where it is not. No network is used.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for `main`.
        cache: The cache's root; the Hub's common cache is looked at after it.
    """
    home, asked = home_of(repo, cache), revision or "main"
    for name, entry in read_records(home).items():
        if asked in (name, entry["commit"]):
            folder = home / "snapshots" / str(entry["commit"])
            if all(is_there(folder, file, known["size"]) for file, known in entry["files"].items()):
                return folder
    return locate_common(repo, asked)


def pulled(cache: Path) -> list[Pulled]:
    """List what was pulled into this application's cache, by Hub id."""
    found = []
    for home in sorted((cache / "hub").glob("models--*")):
        for name, entry in read_records(home).items():
            folder = home / "snapshots" / entry["commit"]
            size = sum(known["size"] for known in entry["files"].values())
            found.append(
                Pulled(repo=entry["repo"], revision=name, commit=entry["commit"], folder=folder, size=size)
            )
    return found


def remove(repo: str, cache: Path, revision: str | None = None) -> int:
    """Delete a pulled model from this application's cache; the Hub's common cache is never touched.

    Args:
        repo: Hub id.
        cache: The cache's root.
        revision: The one revision to delete; None for all of them.

    Returns:
        The bytes freed; 0 where there was nothing.

    Raises:
        CacheNotWritable: It cannot be deleted.
    """
    home = home_of(repo, cache)
    if not home.exists():
        return 0
    size = folder_bytes(home)
    with locked(home), disk_errors(home):
        others = {name: entry for name, entry in read_records(home).items() if name != revision}
        if revision is not None and others:
            gone = read_records(home).get(revision, {}).get("commit")
            _write_records(home, others)
            if gone and all(entry["commit"] != gone for entry in others.values()):
                shutil.rmtree(home / "snapshots" / gone)
            return size - folder_bytes(home)
        # The record goes first: a deletion that breaks off then leaves nothing that looks whole.
        (home / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(home)
    return size


def home_of(repo: str, cache: Path) -> Path:
    """Return a repository's folder in this application's cache, whether or not it is there."""
    return cache / "hub" / f"models--{repo.replace('/', '--')}"


def is_there(folder: Path, name: str, size: int) -> bool:
    """Tell whether a file is whole, by its size in bytes."""
    path = folder / name
    return path.is_file() and path.stat().st_size == size


def read_records(home: Path) -> dict[str, Any]:
    """Read what was pulled of a repository: revision -> repo, commit and files (size, sha256)."""
    try:
        found = json.loads((home / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_record(
    home: Path, repo: str, revision: str, commit: str, files: dict[str, int], hashes: dict[str, str]
) -> None:
    """Write down that a revision is here, whole, with its files' sizes and hashes."""
    known = {name: {"size": size, "sha256": hashes.get(name)} for name, size in files.items()}
    _write_records(home, {**read_records(home), revision: {"repo": repo, "commit": commit, "files": known}})


def _write_records(home: Path, records: dict[str, Any]) -> None:
    part = home / f"{_RECORD}.partial"
    with part.open("w", encoding="utf-8") as file:
        json.dump(records, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(home / _RECORD)


def locate_common(repo: str, revision: str) -> Path | None:
    """Return a checkpoint that another program left in the Hub's common cache; None where it is not whole."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    commit = revision
    with suppress(OSError):
        commit = (home / "refs" / revision).read_text(encoding="utf-8").strip()
    folder = home / "snapshots" / commit
    try:
        sizes = [path.stat().st_size for path in (folder / "config.json", *weight_files(folder))]
    except (LLMError, OSError):
        return None
    return folder if all(sizes) and any((folder / name).is_file() for name in TOKENIZERS) else None
