"""The embedded model: its GGUF file is fetched and becomes a checkpoint in the cache.

The file is deleted once the checkpoint is complete.

    >>> from llms.models.embedded import embedded_checkpoint
    >>> embedded_checkpoint(notify=print)  # doctest: +SKIP
    PosixPath('.../models/smollm2-135m-bcc81830-r1')
"""

from __future__ import annotations

from pathlib import Path

from llms.models.catalog import EMBEDDED, CatalogEntry, ModelFile, cache_dir, find
from llms.models.checkpoint import (
    Notify,
    Progress,
    damage,
    locked,
    no_progress,
    require_space,
    silent,
    staging,
)
from llms.models.fetch import fetch, remove_file

_RECIPE = 1  # count it up when the conversion writes other bytes, so that old checkpoints are made again
_KNOWN = {"b179c952": "bcc81830"}
"""Names of checkpoints that version 0.1 made, by the hash of their file: it named them after the wheel."""


def embedded_path(cache: Path | None = None, entry: CatalogEntry | None = None) -> Path:
    """Return the place of the embedded model's checkpoint, whether or not it exists."""
    entry = entry or _embedded()
    key = str(_file(entry).sha256)[:8]
    return (cache or cache_dir()) / "models" / f"{entry.name}-{_KNOWN.get(key, key)}-r{_RECIPE}"


def embedded_checkpoint(
    cache: Path | None = None,
    *,
    notify: Notify = silent,
    progress: Progress = no_progress,
    entry: CatalogEntry | None = None,
) -> Path:
    """Return the embedded model's checkpoint folder; it is fetched and converted first if it is missing.

    Two processes that start at the same time do the work once. A damaged checkpoint (a file is missing or has
    another size) is made again. Once it is complete, neither a network nor a writable cache is needed.

    Args:
        cache: The cache's root; None for the platform's.
        notify: Receives a line before each slow step.
        progress: Receives the progress of the download.
        entry: Another catalog entry with a file.

    Raises:
        FetchFailed: There is no network, or no place has the file.
        HashMismatch: The file does not have the catalog's hash.
        NoPip: This Python has no pip.
        NoSpace: The disk is full; the next start goes on with what has arrived.
        CacheNotWritable: The cache cannot be written.
    """
    entry = entry or _embedded()
    target = embedded_path(cache, entry)
    if damage(target) is None:
        return target
    with locked(target, notify):
        problem = damage(target)
        if problem is None:
            return target
        if target.exists():
            notify(f"the checkpoint of {entry.name} is damaged ({problem}); making it again")
        _make(entry, target, cache or cache_dir(), notify, progress)
    return target


def _make(entry: CatalogEntry, target: Path, cache: Path, notify: Notify, progress: Progress) -> None:
    from llms.models.gguf import convert_gguf

    file = _file(entry)
    require_space(target.parent, 2 * file.size + 2 * entry.parameters + 2**24, f"making {entry.name}")
    gguf = fetch(file, cache, notify=notify, progress=progress)
    facts = {"model": entry.name, "file": file.name, "file_sha256": file.sha256, "recipe": _RECIPE}
    with staging(target, facts) as folder:
        notify(f"converting {entry.name} to a checkpoint in {target.parent} (once)")
        convert_gguf(gguf, folder)
    remove_file(file, cache)


def _embedded() -> CatalogEntry:
    entry = find(EMBEDDED)
    assert entry is not None
    return entry


def _file(entry: CatalogEntry) -> ModelFile:
    assert entry.file is not None
    return entry.file
