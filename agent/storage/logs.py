"""The log of questions and answers: one private SQLite file, which never leaves this machine."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import FolderError
from agent.folders import private_file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS logs (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL,
    grounded INTEGER NOT NULL, model TEXT, thread TEXT, facts TEXT NOT NULL
)"""
_COLUMNS = "id, time, question, answer, grounded, model, thread, facts"


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One question with its answer; `time` in seconds since the epoch, `facts` with citations and counts."""

    id: int
    time: float
    question: str
    answer: str
    grounded: bool
    model: str | None
    thread: str | None
    facts: dict[str, Any]


class Logs:
    """The log, as `open_logs` opens it."""

    def __init__(self, connection: sqlite3.Connection, *, first: bool) -> None:
        self._db = connection
        self.first = first
        """True if nothing has ever been logged here, which is the time to say that logging is on."""

    def add(
        self, question: str, answer: str, *, grounded: bool, model: str | None, thread: str | None, facts: Any
    ) -> int:
        """Keep an entry and return its number."""
        row = (time.time(), question, answer, int(grounded), model, thread, json.dumps(facts, default=str))
        cursor = self._db.execute(
            "INSERT INTO logs(time, question, answer, grounded, model, thread, facts) VALUES (?,?,?,?,?,?,?)",
            row,
        )
        self._db.commit()
        return int(cursor.lastrowid or 0)

    def expire(self, days: int) -> int:
        """Forget entries older than `days` (0 forgets none) and return how many."""
        if days <= 0:
            return 0
        cursor = self._db.execute("DELETE FROM logs WHERE time < ?", (time.time() - days * 86400,))
        self._db.commit()
        return cursor.rowcount

    def newest(self, count: int = 20, words: str = "") -> list[LogEntry]:
        """Return the newest entries that contain all of the words, newest first."""
        wanted = [f"%{_escaped(word)}%" for word in words.split()]
        where = (
            " AND ".join(["(question LIKE ? ESCAPE '\\' OR answer LIKE ? ESCAPE '\\')"] * len(wanted)) or "1"
        )
        values: list[Any] = [pattern for pattern in wanted for _ in range(2)]
        sql = f"SELECT {_COLUMNS} FROM logs WHERE {where} ORDER BY id DESC LIMIT ?"
        return [_entry(row) for row in self._db.execute(sql, [*values, count])]

    def get(self, number: int) -> LogEntry | None:
        """Return the entry of that number, None if there is none."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM logs WHERE id = ?", (number,)).fetchone()
        return _entry(row) if row else None

    def remove(self, number: int | None = None) -> int:
        """Forget one entry, or all of them, and return how many."""
        where, values = ("id = ?", (number,)) if number is not None else ("1", ())
        cursor = self._db.execute(f"DELETE FROM logs WHERE {where}", values)
        self._db.commit()
        return cursor.rowcount


@contextmanager
def open_logs(path: Path) -> Iterator[Logs]:
    """Open the log, or make a private one; raises FolderError if it cannot be used."""
    first = not path.exists()
    private_file(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=5)
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(_SCHEMA)
        yield Logs(connection, first=first)
    except sqlite3.DatabaseError as error:
        raise FolderError(
            f"expected a log at {str(path)!r}, found one that cannot be used ({error}); "
            "move it away, or switch logging off: agent logs off"
        ) from error
    finally:
        if connection is not None:
            connection.close()


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _entry(row: Any) -> LogEntry:
    number, moment, question, answer, grounded, model, thread, facts = row
    return LogEntry(
        id=number,
        time=moment,
        question=question,
        answer=answer,
        grounded=bool(grounded),
        model=model,
        thread=thread,
        facts=json.loads(facts),
    )
