"""What the user sees: answers on stdout; progress, notices and errors on stderr.

Neutralizes terminal escapes in text that came from models, documents and tools; uses colour and links only
where a terminal has them. Knows nothing of how an answer comes about.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and newline: C0, DEL and C1; among them ESC and CSI, which terminals obey."""

_quiet = False


def configure(args: Any) -> None:
    """Take the shared options of the command line."""
    global _quiet
    _quiet = bool(args.quiet)


def harmless(text: str) -> str:
    """The text without the control characters that a terminal would obey."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def out(text: str) -> None:
    """Write to stdout, at once."""
    raw(harmless(text))


def line(text: str = "") -> None:
    """Write one line to stdout."""
    out(text + "\n")


def note(text: str) -> None:
    """Write one line of progress or notice to stderr."""
    if not _quiet:
        sys.stderr.write(_paint(harmless(text), "2") + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Write to stderr what the user must see to answer, whatever --quiet says."""
    sys.stderr.write(harmless(text) + "\n")
    sys.stderr.flush()


def show_error(error: Exception, *, known: bool) -> None:
    """Show an error in red, without a traceback."""
    text = harmless(str(error)) or type(error).__name__
    if not known:
        text = (
            f"internal error: {type(error).__name__}: {text}; run again with --debug and report the traceback"
        )
    sys.stderr.write(_paint(f"error: {text}", "31") + "\n")
    sys.stderr.flush()


def _paint(text: str, code: str) -> str:
    from agent.settings import colour_wanted

    return f"\x1b[{code}m{text}\x1b[0m" if sys.stderr.isatty() and colour_wanted() else text


def bold(text: str) -> str:
    """The text in bold where stdout is a terminal that may have colour; not neutralized again."""
    from agent.settings import colour_wanted

    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and colour_wanted() else text


def styled_width() -> int | None:
    """Columns of a terminal on stdout that may have styles, None where there is none."""
    from agent.settings import colour_wanted

    return shutil.get_terminal_size().columns if sys.stdout.isatty() and colour_wanted() else None


def link(path: str, text: str) -> str:
    """The text as an OSC 8 hyperlink to a local file, where stdout is a terminal that may have it."""
    from agent.settings import colour_wanted

    text = harmless(text)
    if not (sys.stdout.isatty() and colour_wanted() and Path(path).is_file()):
        return text
    return f"\x1b]8;;{Path(path).resolve().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"


def raw(text: str) -> None:
    """Write text to stdout that was neutralized piece by piece and holds only our own codes.

    Raises FolderError where it cannot be written (a full disk); BrokenPipeError where the reader has gone.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from agent.errors import FolderError

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor by the interpreter's last flush
        raise FolderError(
            f"expected to write standard output, found {error.strerror}; free it, or send it elsewhere"
        ) from error


def shorten(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters."""
    text = " ".join(harmless(text).split())
    return text if len(text) <= limit else text[: max(limit - 1, 1)] + "…"


def show_sources(citations: list[dict[str, Any]]) -> None:
    """Print the citations, numbered as in the answer: where they stand, and the quoted span."""
    if not citations:
        return
    raw("\n" + bold("Sources") + "\n")
    for citation in citations:
        quote = " ".join(harmless(str(citation["quote"])).split())
        raw(f"[{citation['number']}] {place(citation, linked=True)}: {_wrapped(quote)}\n")


def place(facts: Mapping[str, Any], *, linked: bool = False) -> str:
    """Where a passage stands: `file:line`, or the file and its page, and the heading.

    `facts` are a citation's, or the metadata of a retrieved document; with `linked` the file is a hyperlink
    where stdout is a terminal that may have it.
    """
    source = str(facts.get("source") or "")
    named = harmless(display_path(source) + (f":{facts['line']}" if facts.get("line") else ""))
    page = f"page {facts['page']}" if facts.get("page") else ""
    heading = harmless(str(facts.get("heading") or ""))
    parts = (link(source, named) if linked else named, page, heading)
    return ", ".join(part for part in parts if part)


def _wrapped(quote: str) -> str:
    """The quote in its marks; on a terminal in lines of its own, between words."""
    if (width := styled_width()) is None:
        return f'"{quote}"'
    return "\n" + textwrap.fill(
        f'"{quote}"', max(width - 1, 16), initial_indent="    ", subsequent_indent="    "
    )


def display_path(source: str) -> str:
    """The path as seen from the current folder, where that is shorter."""
    try:
        relative = os.path.relpath(source)
    except ValueError:
        return source
    return relative if len(relative) < len(source) else source


def table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print rows as aligned columns."""
    for row in aligned(rows, columns):
        line(row)


def aligned(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    """Rows, under a line of names, as aligned text."""
    cells = [
        columns,
        *([harmless(str("" if row.get(c) is None else row[c])) for c in columns] for row in rows),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A moment of a long piece of work: so many of so many, and what is being done."""

    done: int
    total: int
    text: str = ""


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[Step], None]]:
    """A callback that draws a bar on a terminal, and elsewhere writes a line every ten seconds."""
    if _quiet or not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def draw(step: Step) -> None:
            text = shorten(f"{what}: {step.text}" if step.text else what, 48)
            bar.update(task, completed=step.done, total=step.total or None, description=text)

        yield draw


def _lines(what: str) -> Callable[[Step], None]:
    last = time.monotonic()

    def say(step: Step) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            note(f"{what}: {step.done} of {step.total}" + (f", {step.text}" if step.text else ""))

    return say
