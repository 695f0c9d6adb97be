"""What is kept between runs: `agent threads`, `logs`, `notes` and `templates`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import console
from agent.cli.options import (
    FILE,
    JSON,
    Args,
    action,
    completed_from,
    option,
    settings_from,
    template_names,
    verb,
    words,
    words_of,
)
from agent.errors import RequestError

if TYPE_CHECKING:
    from agent.settings import Settings
    from agent.storage.logs import LogEntry
    from agent.storage.threads import Thread, Threads


@verb(
    action("export", "list", "rm", "show", default="list"),
    words("names", metavar="[THREAD]...", help="a thread's name or how it begins"),
    option("--out", type=FILE, metavar="FILE", help="export: write there instead of stdout"),
    JSON,
)
def threads(args: Args) -> int:
    """Carry out one action on the threads."""
    folders = settings_from(args).folders
    if args.action == "list" and not folders.threads.exists():
        return _list_threads([], args)
    from agent.storage.threads import open_threads

    with open_threads(folders.threads) as kept:
        if args.action == "list":
            return _list_threads(kept.all(), args)
        actions = {"export": _export_threads, "rm": _remove_threads, "show": _show_threads}
        return actions[args.action](kept, args)


def _list_threads(found: list[Thread], args: Args) -> int:
    if args.json:
        console.write_json({"threads": [asdict(one) for one in found]})
    elif not found:
        console.note("no threads yet; begin one: agent chat")
    else:
        rows = [{"thread": one.id, "used": _when(one.used), "title": one.title} for one in found]
        console.table(rows, ["thread", "used", "title"])
    return 0


def _show_threads(kept: Threads, args: Args) -> int:
    for name in _thread_names(args):
        thread = kept.find(name)
        if args.json:
            messages = [{"role": m.type, "text": m.text} for m in kept.messages(thread)]
            console.write_json({**asdict(thread), "messages": messages})
        else:
            console.line(kept.export(thread))
    return 0


def _export_threads(kept: Threads, args: Args) -> int:
    text = "\n".join(kept.export(kept.find(name)) for name in _thread_names(args))
    if args.out:
        from agent.cli.request import write_new

        write_new(args.out, text)
    else:
        console.line(text)
    return 0


def _remove_threads(kept: Threads, args: Args) -> int:
    for thread in [kept.find(name) for name in _thread_names(args)]:
        kept.remove(thread)
        console.line(f"removed {thread.id} {thread.title}")
    return 0


def _thread_names(args: Args) -> list[str]:
    if not args.names:
        raise RequestError("expected the name of a thread, found none; `agent threads list` names them")
    return list(args.names)


@verb(
    action("list", "off", "on", "rm", "search", "show", default="list"),
    words("words", help="search: words; show, rm: entry numbers, or `all`"),
    option("-n", "count", type=int, default=20, metavar="N", help="how many entries (20)"),
    JSON,
)
def logs(args: Args) -> int:
    """Carry out one action on the log."""
    settings = settings_from(args)
    if args.action in ("on", "off"):
        return _switch_logging(settings, args)
    if args.action in ("list", "search"):
        return _list_log(settings, args)
    return _show_log(settings, args) if args.action == "show" else _remove_log(settings, args)


def _list_log(settings: Settings, args: Args) -> int:
    from agent.storage.logs import open_logs

    entries: list[LogEntry] = []
    if settings.folders.logs.exists():
        with open_logs(settings.folders.logs) as log:
            entries = log.newest(args.count, " ".join(args.words))
    if args.json:
        console.write_json({"logs": [asdict(entry) for entry in entries]})
    elif not entries:
        console.note("nothing in the log")
    else:
        rows = [
            {
                "#": entry.id,
                "when": _when(entry.time),
                "question": console.shorten(entry.question, 60),
                "answer": console.shorten(entry.answer, 60),
            }
            for entry in entries
        ]
        console.table(rows, ["#", "when", "question", "answer"])
    return 0


def _show_log(settings: Settings, args: Args) -> int:
    from agent.storage.logs import open_logs

    with open_logs(settings.folders.logs) as log:
        for number in _entry_numbers(args.words):
            entry = log.get(number)
            if entry is None:
                raise _unknown_entry(str(number))
            if args.json:
                console.write_json(asdict(entry))
            else:
                title = f"#{entry.id} {_when(entry.time)} {entry.model or ''}"
                console.line(f"{title}\n\n{entry.question}\n\n{entry.answer}\n")
    return 0


def _remove_log(settings: Settings, args: Args) -> int:
    from agent.storage.logs import open_logs

    with open_logs(settings.folders.logs) as log:
        if args.words == ["all"]:
            console.line(f"removed {log.remove()}")
            return 0
        for number in _entry_numbers(args.words):
            if not log.remove(number):
                raise _unknown_entry(str(number))
            console.line(f"removed #{number}")
    return 0


def _switch_logging(settings: Settings, args: Args) -> int:
    from agent.settings import set_value

    set_value(settings.folders.config_file, "logging", str(args.action == "on").lower())
    console.line(f"logging is {args.action}")
    return 0


def _entry_numbers(given: list[str]) -> list[int]:
    if not given:
        raise _unknown_entry("")
    for word in given:
        if not word.lstrip("#").isdigit():
            raise _unknown_entry(word)
    return [int(word.lstrip("#")) for word in given]


def _unknown_entry(word: str) -> Exception:
    return RequestError(f"expected the number of a log entry, found {word!r}; `agent logs list` numbers them")


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


@verb(
    action("add", "list", "rm", default="list"),
    words("words", metavar="[WORDS]...", help="add: the note; rm: numbers, or `all`"),
    JSON,
)
def notes(args: Args) -> int:
    """Carry out one action on the notes."""
    from agent.storage.notes import add_note, read_notes

    path = settings_from(args).folders.notes
    if args.action == "add":
        console.line(f"noted: {add_note(path, words_of(args.words))}")
    elif args.action == "rm":
        for note in forget_notes(path, args.words):
            console.line(f"forgot: {note}")
    elif args.json:
        console.write_json({"notes": read_notes(path)})
    else:
        show_notes(read_notes(path))
    return 0


def show_notes(found: list[str]) -> None:
    """Print the notes with their numbers."""
    for number, note in enumerate(found, 1):
        console.line(f"{number}. {note}")
    if not found:
        console.note('no notes yet; keep one: agent notes add "…"')


def forget_notes(path: Path, given: list[str]) -> list[str]:
    """Remove notes by their numbers, or all of them, and return their texts; raises RequestError."""
    from agent.storage.notes import read_notes, remove_note

    count = len(read_notes(path))
    wanted = [str(n) for n in range(1, count + 1)] if given == ["all"] else given
    if not given or not all(word.isdigit() for word in wanted):
        raise RequestError(f"expected numbers of notes, or `all`, found {given!r}; see `agent notes list`")
    # The last one goes first, so that each number means the same note throughout.
    numbers = sorted({int(word) for word in wanted}, reverse=True)
    if numbers and not 1 <= numbers[0] <= count:
        remove_note(path, numbers[0])  # raises and says which numbers there are
    return [remove_note(path, number) for number in numbers][::-1]


@verb(
    action("list", "rm", "save", "show", default="list"),
    words(
        "words",
        metavar="[NAME [TEXT]]",
        shell_complete=completed_from(template_names),
        help="save: the name, then the text (or stdin)",
    ),
    JSON,
)
def templates(args: Args) -> int:
    """Carry out one action on the templates."""
    from agent.storage.templates import gaps_of, list_templates, read_template, save_template, template_path

    folder = settings_from(args).folders.templates
    if args.action == "list":
        names = list_templates(folder)
        if args.json:
            console.write_json({"templates": names})
        else:
            console.line("\n".join(names) or "no templates yet")
        return 0
    if not args.words:
        raise RequestError(
            "expected a template's name, found none; for example: agent templates save tldr 'TL;DR: $input'"
        )
    name = args.words[0]
    if args.action == "save":
        text = words_of(args.words[1:]) or sys.stdin.read()
        path = save_template(folder, name, text)
        gaps = ", ".join(f"${gap}" for gap in gaps_of(text))
        console.line(f"saved {path}; {f'gaps: {gaps}' if gaps else 'no gap ($input) in it: words follow it'}")
        return 0
    text = read_template(folder, name)
    if args.action == "rm":
        template_path(folder, name).unlink()
    console.line(text if args.action == "show" else f"removed {name}")
    return 0
