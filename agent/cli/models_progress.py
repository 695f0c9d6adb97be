"""The progress of a download on stderr: a bar with size, rate and time left, or a line every 10 percent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.cli import console

Report = Callable[[str, int, int], None]
"""Receives what is fetched, the bytes so far and the bytes in total."""


@contextmanager
def download_bar() -> Iterator[Report]:
    """Yield a callback that shows a download: a bar on a terminal, elsewhere a line every 10 percent.

    >>> with download_bar() as bar:
    ...     bar("model.gguf", 0, 100)
    """
    if console.is_quiet():
        yield lambda _what, _done, _total: None
    elif not sys.stderr.isatty():
        yield _lines()
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("waiting", total=None)
            begun = False

            def draw(what: str, done: int, total: int) -> None:
                nonlocal begun
                shown = console.shorten(what, 40)
                if not begun:  # what an earlier start has left must not count as the rate
                    begun = True
                    bar.reset(task, total=total, completed=done, description=shown)
                bar.update(task, completed=done, total=total, description=shown)

            yield draw


def _lines() -> Report:
    """Return a callback that writes a line whenever another tenth of a download has arrived."""
    began, first, shown = time.monotonic(), -1, 0

    def write(what: str, done: int, total: int) -> None:
        nonlocal began, first, shown
        if first < 0:
            began, first = time.monotonic(), done
        tenth = 10 * done // max(total, 1)
        if tenth <= shown:
            return
        shown = tenth
        rate = (done - first) / max(time.monotonic() - began, 1e-3)
        left = f", {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
        speed = f", {rate / 1e6:.1f} MB/s{left}" if rate > 0 else ""
        console.note(f"{what}: {10 * tenth} % of {total / 1e6:,.1f} MB{speed}")

    return write
