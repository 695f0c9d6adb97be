"""From a source to the folder with its weights: what is fetched, converted, or already there.

Knows which part serves which kind of source. Refuses to open a checkpoint, and to fetch more than the
embedded model: 14 GB come when they are asked for by name (`agent models pull`).
"""

from __future__ import annotations

from pathlib import Path

from llms.errors import UnknownModel
from llms.models.catalog import Source
from llms.models.checkpoint import Notify, damage, silent
from llms.models.embedded import Progress, embedded_checkpoint, embedded_path, no_progress
from llms.models.gguf import converted, converted_path
from llms.models.hub import locate


def here(source: Source, cache: Path) -> Path | None:
    """Return a source's checkpoint where it is on this machine and whole; fetches and converts nothing."""
    if source.kind == "hub":
        return locate(source.location, source.revision, cache)
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "embedded":
        path = embedded_path(cache, source.entry)
    else:
        path = converted_path(Path(source.location), cache)
    return path if damage(path) is None else None


def checkpoint_folder(
    source: Source, cache: Path, *, notify: Notify = silent, progress: Progress = no_progress
) -> Path:
    """Return the folder with a source's weights, fetching the embedded model and converting a GGUF.

    Raises:
        UnknownModel: A Hub model that is not on this machine; the message has the command that brings it.
        LLMError: What fetching or converting raises.
    """
    if source.kind == "embedded":
        return embedded_checkpoint(cache, notify=notify, progress=progress, entry=source.entry)
    if source.kind == "folder":
        return Path(source.location)
    if source.kind == "gguf":
        return converted(Path(source.location), cache, notify=notify)
    found = locate(source.location, source.revision, cache)
    if found is None:
        at = f" at revision {source.revision!r}" if source.revision else ""
        size = f" ({source.entry.download_bytes / 1e9:.1f} GB)" if source.entry else ""
        raise UnknownModel(
            f"expected {source.location!r}{at} on this machine, found nothing in {str(cache / 'hub')!r}; run "
            f"`agent models pull {source.name}`{size}, or use `--model smollm2-135m`"
        )
    return found
