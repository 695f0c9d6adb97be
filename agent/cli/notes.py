"""`agent notes`: what the user asked to be remembered."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from agent.cli import console
from agent.cli.options import settings_from, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=["add", "list", "rm"], help="what to do (list)"
    )
    parser.add_argument("words", nargs="*", metavar="WORDS", help="add: the note; rm: numbers, or `all`")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the notes."""
    console.configure(args)
    from agent.storage.notes import add_note, read_notes

    path = settings_from(args).folders.notes
    if args.action == "add":
        console.line(f"noted: {add_note(path, words_of(args.words))}")
    elif args.action == "rm":
        for note in forget(path, args.words):
            console.line(f"forgot: {note}")
    elif args.json:
        console.line(json.dumps({"notes": read_notes(path)}, ensure_ascii=False))
    else:
        show(read_notes(path))
    return 0


def show(notes: list[str]) -> None:
    """Print the notes with their numbers."""
    for number, note in enumerate(notes, 1):
        console.line(f"{number}. {note}")
    if not notes:
        console.note('no notes yet; keep one: agent notes add "…"')


def forget(path: Path, words: list[str]) -> list[str]:
    """Take notes out by their numbers, or all of them; returns their texts. Raises RequestError."""
    from agent.errors import RequestError
    from agent.storage.notes import read_notes, remove_note

    count = len(read_notes(path))
    wanted = [str(n) for n in range(1, count + 1)] if words == ["all"] else words
    if not words or not all(word.isdigit() for word in wanted):
        raise RequestError(f"expected numbers of notes, or `all`, found {words!r}; see `agent notes list`")
    # From the last to the first, so that a number means the same note throughout.
    numbers = sorted({int(word) for word in wanted}, reverse=True)
    if numbers and not 1 <= numbers[0] <= count:
        remove_note(path, numbers[0])  # says which numbers there are
    return [remove_note(path, number) for number in numbers][::-1]
