"""From a source to the folder with its weights, which is fetched, converted or already there.

Only the embedded model is fetched here. A model of 14 GB is fetched when it is asked for by name
(`llms.models.pull`).

    >>> from llms.models.catalog import cache_dir, resolve
    >>> checkpoint_folder(resolve("smollm2-135m"), cache_dir())  # doctest: +SKIP
    PosixPath('.../models/smollm2-135m-bcc81830-r1')
"""

from __future__ import annotations

from pathlib import Path

from llms.errors import UnknownModel
from llms.models.catalog import EMBEDDED, Source
from llms.models.checkpoint import Notify, damage, silent
from llms.models.embedded import Progress, embedded_checkpoint, embedded_path, no_progress
from llms.models.gguf import converted, converted_path
from llms.models.hub import locate


def locate_source(source: Source, cache: Path) -> Path | None:
    """Return a source's checkpoint if it is whole on this machine, else None. Nothing is fetched."""
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
    """Return the folder with a source's weights; fetch the embedded model and convert a GGUF file if needed.

    Raises:
        UnknownModel: A Hub model is not on this machine; the hint is the call that fetches it.
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
            f"expected {source.location!r}{at} on this machine, found nothing in {str(cache / 'hub')!r}; use "
            f'model="{EMBEDDED}", or fetch it{size}',
            hint=f'llms.models.pull("{source.name}")',
        )
    return found
