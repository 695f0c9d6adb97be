"""What the user asked to be remembered beyond one conversation: a private text file with one note a line.

Nothing is noted unasked. A note comes from `agent notes add`, `/remember`, a message that says so, or the
tool `remember`, which asks for approval like any tool that writes. The notes are part of the system prompt of
every later conversation.

A note that was made while text from documents, files or tools was in the conversation begins with
`[from other text]`. It may hold somebody else's orders, so later conversations are labelled as if they
contained that text (`agent.guard.labels`).

    >>> asked_to_remember("Please remember that I am allergic to nuts")
    'I am allergic to nuts'
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.errors import FolderError, RequestError
from agent.folders import private_file

FROM_OTHERS = "[from other text] "
"""Beginning of a note that the user may not have written alone."""
MAX_NOTES, MAX_CHARS = 100, 500
"""All notes are part of every prompt, so a longer text belongs into a document."""

_ASKS = re.compile(
    r"\s*(?:please\s+|bitte\s+)?"
    r"(?:remember|merke? dir|souviens-toi|rappelle-toi|recuerda|ricorda)"
    r"(?:\s*:|[\s,]+(?:that|this:|dass|que|che)\b)\s*(?P<what>\S.{2,})",
    re.IGNORECASE | re.DOTALL,
)


def asked_to_remember(message: str) -> str | None:
    """Return what a message asks to be remembered ("Remember that …"), None if it asks for something else."""
    found = _ASKS.fullmatch(message.strip())
    return found["what"].strip() if found and not message.rstrip().endswith("?") else None


def read_notes(path: Path) -> list[str]:
    """Return the notes, oldest first; raises FolderError if the file cannot be read."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(
            f"expected notes at {str(path)!r}, found {error}; mend the file or move it away"
        ) from error


def from_others(notes: list[str]) -> bool:
    """Return whether other text had a part in one of the notes."""
    return any(note.startswith(FROM_OTHERS) for note in notes)


def add_note(path: Path, text: str, *, own: bool = True) -> str:
    """Keep a note on one line and return it.

    Args:
        path: The file of notes.
        text: The note.
        own: False if text that is not the user's was in the conversation from which the note comes.

    Raises:
        RequestError: the note is empty, too long, or one too many.
    """
    note = " ".join(text.split())
    if note and not own:
        note = FROM_OTHERS + note
    notes = read_notes(path)
    if not note or len(note) > MAX_CHARS:
        raise RequestError(f"expected a note of 1 to {MAX_CHARS} characters, found {len(note)}; shorten it")
    if len(notes) >= MAX_NOTES:
        raise RequestError(
            f"expected at most {MAX_NOTES} notes, found {len(notes)}; take some out: agent notes rm NUMBER"
        )
    if note not in notes:
        _write(path, [*notes, note])
    return note


def remove_note(path: Path, number: int) -> str:
    """Forget the note of that number, counted from 1, and return it; raises RequestError."""
    notes = read_notes(path)
    if not 1 <= number <= len(notes):
        what = f"a note from 1 to {len(notes)}" if notes else "a note to take out (there is none)"
        raise RequestError(f"expected {what}, found {number}; see `agent notes list`")
    gone = notes.pop(number - 1)
    _write(path, notes)
    return gone


def system_with_notes(system: str | None, notes: list[str]) -> str | None:
    """Return the system prompt with the notes after it."""
    if not notes:
        return system
    told = "\n".join(["What the user asked you to remember:", *(f"- {note}" for note in notes)])
    return f"{system}\n\n{told}" if system else told


def _write(path: Path, notes: list[str]) -> None:
    """Write the whole file under another name and rename it, so that a killed program loses no note."""
    partial = private_file(path.with_suffix(".partial"))
    try:
        partial.write_text("".join(f"{note}\n" for note in notes), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise FolderError(
            f"expected to write {str(path)!r}, found {error.strerror}; free it, or set AGENT_HOME"
        ) from error
