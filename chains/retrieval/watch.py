"""Keeps a store up to date with folders: a change on disk is ingested shortly after it ends.

If one ingest fails, its error is reported and the next change is tried again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

from chains.retrieval.errors import NothingToIngest, RetrievalError, SourceNotFound
from chains.retrieval.ingest import IngestReport
from chains.retrieval.walk import folders_of

ReportCallback = Callable[[IngestReport], None]
ErrorCallback = Callable[[RetrievalError], None]


def watch_paths(
    ingest: Callable[[list[str]], IngestReport],
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_report: ReportCallback,
    on_error: ErrorCallback | None = None,
    stop: threading.Event | None = None,
    debounce_ms: int = 800,
) -> None:
    """Call `ingest` now and after every change under `paths`; see `DocumentStore.watch`."""
    from watchfiles import watch as changes

    watched = [os.path.realpath(path) for path in paths]
    for path in watched:
        if not os.path.lexists(path):
            raise SourceNotFound(
                f"expected a file or folder to watch, found nothing at {path!r}; check the path"
            )

    def ingest_once() -> None:
        try:
            on_report(ingest([path for path in watched if os.path.lexists(path)]))
        except NothingToIngest:
            return  # an empty folder may get files later
        except RetrievalError as error:
            if on_error is None:
                raise
            on_error(error)

    ended = stop or threading.Event()
    ingest_once()
    roots = sorted(set(folders_of(watched)))
    for _ in changes(
        *roots, debounce=debounce_ms, stop_event=ended, rust_timeout=500, yield_on_timeout=False
    ):
        ingest_once()
