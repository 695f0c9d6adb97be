"""Keeps a store in step with folders: a change on disk is ingested shortly after it comes to rest.

Knows watchfiles and one store. An error of one round is reported and the next change tried again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from chains.retrieval.errors import NothingToIngest, RetrievalError, SourceNotFound
from chains.retrieval.ingest import IngestReport, ProgressCallback
from chains.retrieval.walk import folders_of

if TYPE_CHECKING:
    from chains.retrieval.store import DocumentStore

ReportCallback = Callable[[IngestReport], None]
ErrorCallback = Callable[[RetrievalError], None]


def watch(
    store: DocumentStore,
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_report: ReportCallback,
    on_error: ErrorCallback | None = None,
    progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
    debounce_ms: int = 800,
    **options: Any,
) -> None:
    """Ingests `paths` now and after every change, until `stop` is set or the process is interrupted.

    Args:
        store: what is kept in step.
        paths: files and folders, as for `store.ingest`.
        on_report: called after each round.
        on_error: called with what a round failed with; without it the error is raised.
        progress: as for `store.ingest`.
        stop: ends the watch within a second once it is set.
        debounce_ms: how long changes are gathered, in milliseconds.
        options: further arguments of `store.ingest`.
    """
    from watchfiles import watch as changes

    given = [os.path.realpath(path) for path in paths]
    for path in given:
        if not os.path.lexists(path):
            raise SourceNotFound(
                f"expected a file or folder to watch, found nothing at {path!r}; check the path"
            )
    ended = stop or threading.Event()

    def round_() -> None:
        _round(store, given, on_report, on_error, {"progress": progress, **options})

    round_()
    roots = sorted(set(folders_of(given)))
    for _ in changes(
        *roots, debounce=debounce_ms, stop_event=ended, rust_timeout=500, yield_on_timeout=False
    ):
        round_()


def _round(
    store: DocumentStore,
    given: list[str],
    on_report: ReportCallback,
    on_error: ErrorCallback | None,
    options: dict[str, Any],
) -> None:
    present = [path for path in given if os.path.lexists(path)]
    try:
        on_report(store.ingest(present, **options))
    except NothingToIngest:
        return  # an empty folder may fill yet
    except RetrievalError as error:
        if on_error is None:
            raise
        on_error(error)
