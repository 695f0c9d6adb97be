"""What the user sees: answers on stdout; progress, notices and errors on stderr.

Text from models, documents and tools is stripped of the control characters that a terminal obeys. Colour and
links are used only on a terminal that shows them.
"""

from __future__ import annotations

import json
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and newline: C0, DEL and C1, which include ESC and CSI."""

_quiet = False
_context: click.Context | None = None


def configure(*, quiet: bool, context: click.Context | None = None) -> None:
    """Set whether notices are shown, and the context of the verb whose options error messages may name."""
    global _quiet, _context
    _quiet, _context = quiet, context


def is_quiet() -> bool:
    """Return whether notices are suppressed (`--quiet`)."""
    return _quiet


def printable(text: str) -> str:
    """Return the text without the control characters that a terminal would obey."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def out(text: str) -> None:
    """Write to stdout at once."""
    raw(printable(text))


def line(text: str = "") -> None:
    """Write one line to stdout."""
    out(text + "\n")


def write_json(value: Any) -> None:
    """Write a value to stdout as JSON on one line; what JSON cannot express becomes a string."""
    line(json.dumps(value, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Write one line of progress or notice to stderr, unless --quiet is set."""
    if not _quiet:
        sys.stderr.write(_paint(printable(text), "2") + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Write to stderr what the user must see to go on, even if --quiet is set."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def as_typed(text: str) -> str:
    """Return a library's advice with options instead of arguments, and commands instead of Python calls."""
    from agent.cli.messages import in_options

    return in_options(text, _context)


def notify(text: str) -> None:
    """Show a library's notice, like `note`."""
    note(as_typed(text))


def show_error(error: Exception, *, known: bool) -> None:
    """Show an error in red, without a traceback; `known` errors are those that a user can act on."""
    from agent.cli.messages import library_message

    text = printable(library_message(error, _context) if known else str(error)) or type(error).__name__
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
    """Return the text in bold if stdout is a terminal with colour; write it with `raw`."""
    from agent.settings import colour_wanted

    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and colour_wanted() else text


def styled_width() -> int | None:
    """Return the columns of the terminal on stdout; None if it is not a terminal or must not show styles."""
    from agent.settings import colour_wanted

    return shutil.get_terminal_size().columns if sys.stdout.isatty() and colour_wanted() else None


def link(path: str, text: str) -> str:
    """Return the text as an OSC 8 hyperlink to a local file if stdout is a terminal with colour."""
    from agent.settings import colour_wanted

    text = printable(text)
    if not (sys.stdout.isatty() and colour_wanted() and Path(path).is_file()):
        return text
    return f"\x1b]8;;{Path(path).resolve().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"


def raw(text: str) -> None:
    """Write text to stdout in which every control code is ours.

    Raises FolderError if it cannot be written (a full disk), and BrokenPipeError if the reader has gone.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from agent.errors import FolderError

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        raise FolderError(
            f"expected to write standard output, found {error.strerror}; free it, or send it elsewhere"
        ) from error


def shorten(text: str, limit: int) -> str:
    r"""Return the text on one line, cut at `limit` characters.

    >>> shorten("a line\n  and another", 12)
    'a line and …'
    """
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else text[: max(limit - 1, 1)] + "…"


def show_sources(citations: list[dict[str, Any]]) -> None:
    """Print the citations, numbered as in the answer, each with its place and the quoted span."""
    if not citations:
        return
    raw("\n" + bold("Sources") + "\n")
    for citation in citations:
        quote = " ".join(printable(str(citation["quote"])).split())
        raw(f"[{citation['number']}] {place(citation, linked=True)}: {_wrapped(quote)}\n")


def place(facts: Mapping[str, Any], *, linked: bool = False) -> str:
    """Return where a passage is found: `file:line`, or the file and its page, and the heading.

    Args:
        facts: A citation, or the metadata of a retrieved document.
        linked: Make the file a hyperlink if the terminal shows them.
    """
    source = str(facts.get("source") or "")
    named = printable(display_path(source) + (f":{facts['line']}" if facts.get("line") else ""))
    page = f"page {facts.get('label') or facts['page']}" if facts.get("page") else ""
    heading = printable(str(facts.get("heading") or ""))
    parts = (link(source, named) if linked else named, page, heading)
    return ", ".join(part for part in parts if part)


def _wrapped(quote: str) -> str:
    """Return the text in quotation marks; on a terminal, indented and wrapped between words."""
    if (width := styled_width()) is None:
        return f'"{quote}"'
    return "\n" + textwrap.fill(
        f'"{quote}"', max(width - 1, 16), initial_indent="    ", subsequent_indent="    "
    )


def display_path(source: str) -> str:
    """Return the path relative to the current folder if that is shorter."""
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
    """Return the names of the columns and the rows, one line each, in aligned columns."""
    cells = [
        columns,
        *([printable(str("" if row.get(c) is None else row[c])) for c in columns] for row in rows),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a long piece of work has come, and what it is doing now."""

    done: int
    total: int
    text: str = ""


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[Step], None]]:
    """Yield a callback that draws a bar on a terminal; elsewhere it writes a line every ten seconds.

    >>> with progress_bar("documents") as bar:
    ...     bar(Step(done=1, total=9, text="parsing"))
    """
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

    def write(step: Step) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            note(f"{what}: {step.done} of {step.total}" + (f", {step.text}" if step.text else ""))

    return write
