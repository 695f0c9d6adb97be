"""From a source to its file or to the folder with its weights: fetched, converted, or already there.

Only the embedded model is fetched unasked. A larger one is fetched when it is asked for by name
(`llms.models.pull`), or when the caller consents to it (`download=True`).

    >>> from llms.models.catalog import cache_dir, resolve
    >>> checkpoint_folder(resolve("smollm2-135m"), cache_dir())  # doctest: +SKIP
    PosixPath('.../models/smollm2-135m-bcc81830-r1')
"""

from __future__ import annotations

from pathlib import Path

from llms.errors import UnknownModel
from llms.models.catalog import EMBEDDED, ModelFile, Source
from llms.models.checkpoint import Notify, Progress, damage, no_progress, silent, size_text
from llms.models.embedded import embedded_checkpoint, embedded_path
from llms.models.fetch import fetch, file_path, find_file
from llms.models.gguf import converted, converted_path
from llms.models.hub import locate, pull


def gguf_file(source: Source, cache: Path) -> Path | None:
    """Return the GGUF file of a source if it is on this machine; None if not, or if the source has none."""
    if source.kind == "gguf":
        return Path(source.location)
    file = _file_of(source)
    return find_file(file, cache) if file is not None else None


def locate_source(source: Source, cache: Path) -> Path | None:
    """Return a source's checkpoint if it is whole on this machine, else None. Nothing is fetched.

    That is a folder, or the GGUF file of a source that has not been converted.
    """
    if source.kind == "hub":
        return locate(source.location, source.revision, cache)
    if source.kind == "folder":
        return Path(source.location)
    gguf = gguf_file(source, cache)
    if source.kind == "embedded":
        path = embedded_path(cache, source.entry)
    elif gguf is None:
        return None
    else:
        path = converted_path(gguf, cache)
    if damage(path) is None:
        return path
    return gguf if source.kind == "file" else None


def checkpoint_folder(
    source: Source,
    cache: Path,
    *,
    download: bool = False,
    notify: Notify = silent,
    progress: Progress = no_progress,
) -> Path:
    """Return the folder with a source's weights; a GGUF file is converted first.

    Args:
        source: The source.
        cache: The cache's root.
        download: Fetch a model that is not on this machine. The embedded one is always fetched.
        notify: Receives a line before each slow step.
        progress: Receives the progress of a download.

    Raises:
        UnknownModel: The model is not on this machine; the hint is the call that fetches it.
        LLMError: What fetching or converting raises.
    """
    if source.kind == "embedded":
        return embedded_checkpoint(cache, notify=notify, progress=progress, entry=source.entry)
    if source.kind == "folder":
        return Path(source.location)
    gguf = obtain_gguf(source, cache, download=download, notify=notify, progress=progress)
    if gguf is not None:
        return converted(gguf, cache, notify=notify)
    found = locate(source.location, source.revision, cache)
    if found is None:
        if not download:
            raise _missing(source, cache)
        found = pull(source.location, source.revision, cache, notify=notify, progress=progress).folder
    return found


def obtain_gguf(
    source: Source,
    cache: Path,
    *,
    download: bool = False,
    notify: Notify = silent,
    progress: Progress = no_progress,
) -> Path | None:
    """Return the GGUF file that a source consists of, fetched if need be; None if it is no such source.

    The embedded model is none: its checkpoint is made from a file that is then deleted.

    Raises:
        UnknownModel: The file is not on this machine, and `download` is False.
        LLMError: What fetching raises.
    """
    if source.kind == "gguf":
        return Path(source.location)
    file = _file_of(source)
    if source.kind == "embedded" or file is None:
        return None
    if (found := find_file(file, cache)) is None:
        if not download and not file_path(file, cache).exists():
            raise _missing(source, cache)
        found = fetch(file, cache, notify=notify, progress=progress)
    return found


def _missing(source: Source, cache: Path) -> UnknownModel:
    at = f" at revision {source.revision!r}" if source.revision else ""
    size = f" ({size_text(source.entry.download_bytes)})" if source.entry else ""
    where = cache / ("files" if source.kind == "file" else "hub")
    return UnknownModel(
        f"expected {source.location!r}{at} on this machine, found nothing in {str(where)!r}; only the tiny "
        f'model is downloaded unasked: use model="{EMBEDDED}", or download this one{size} with download=True',
        hint=f'llms.models.pull("{source.name}")',
    )


def _file_of(source: Source) -> ModelFile | None:
    return source.entry.file if source.entry is not None else None
