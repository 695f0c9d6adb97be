"""Conversations on disk: LangGraph's SqliteSaver in one private file, with names, listing and export.

Each step of a turn is written before the next begins (`durability="sync"`), so that a conversation that is
killed at any moment goes on where it stopped. Threads of earlier versions open as well: classes that have
moved are found under their old names (`_RESULTS`), and a turn that was stopped inside an older graph is
repeated (`ask_again`).
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ormsgpack
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.constants import END, TASKS
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from agent.errors import ThreadError
from agent.folders import private_file
from agent.guard.labels import CLEAN, both, labelled, labels_of
from agent.turn.context import AGENT
from agent.turn.messages import read_by_user

VERSION = 1
"""Version of the table of names. A file of a higher version is refused and left as it is."""

_RESULTS: Mapping[str, tuple[str, str]] = {
    "agent.events": (
        "agent.turn.events",
        "Approval Delta Final Label=AnswerLabel Notice ToolCall ToolResult",
    ),
    "chains.classify.result": ("chains.classify.result", "Classification"),
    "chains.classify.table": ("chains.classify.table", "TableReport"),
    "chains.code.result": ("chains.code.result", "Check CheckRun CodeEvent CodeResult CodeRun"),
    "chains.complete.chain": ("chains.complete.chain", "Candidate"),
    "chains.rag.answer": ("chains.rag.answer", "Answer AnswerDelta Citation"),
    "chains.retrieval.records": ("chains.retrieval.document", "ChunkRecord SourceRecord"),
    "chains.retrieval.report": ("chains.retrieval.ingest", "FailedFile IngestReport Progress"),
    "chains.retrieval.search": ("chains.retrieval.search", "Hit"),
    "chains.retrieval.verify": ("chains.retrieval.verify", "VerifyReport"),
    "chains.summarize.result": (
        "chains.summarize.result",
        "Style Summary SummaryDelta SummaryPart SummarySentence",
    ),
    "sandbox.result": ("sandbox.result", "RunResult"),
}
"""Result classes, by the module that version 0.1 had them in: the module that has them now, and their names.

A file of threads names classes by module. If a class moves, its line here stays and gets the new module; if a
released version had it elsewhere, that module gets a line too. `Old=New` stands for a class that was renamed.
Classes that are not listed are not built.
"""

NAMES: Mapping[tuple[str, str], tuple[str, str]] = {
    (old, name.partition("=")[0]): (new, name.rpartition("=")[2])
    for old, (new, names) in _RESULTS.items()
    for name in names.split()
}
"""Maps the (module, class) that a file of threads may name to the (module, class) of today."""

_MOVED = {old[0].encode() for old, new in NAMES.items() if old != new}
# Extension codes of jsonplus.py in langgraph-checkpoint 4.3. The payload of 0 to 5 begins with the names of a
# module and a class; 7 wraps a value.
_OBJECTS, _WRAPPED = range(6), 7

_SCHEMA = """
CREATE TABLE IF NOT EXISTS threads (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL
)"""


NOT_ANSWERED = "(no answer: this turn was stopped, and this version of the program cannot go on with it)"
"""Answer that closes a stranded turn in which a tool has acted."""


@dataclass(frozen=True, kw_only=True)
class Thread:
    """A conversation as the list shows it; times in seconds since the epoch."""

    id: str
    title: str
    created: float
    used: float


class ThreadSerializer(JsonPlusSerializer):
    """LangGraph's serializer, which also finds classes under the names that earlier versions gave them.

    It builds messages, LangGraph's types, simple types of the standard library, the classes in `NAMES` and
    those in `classes`. Anything else is refused, so that a file which was tampered with cannot name a
    function to call.

    >>> ThreadSerializer().loads_typed(ThreadSerializer().dumps_typed({"k": 3}))
    {'k': 3}
    """

    def __init__(self, classes: Iterable[type] = ()) -> None:
        super().__init__(pickle_fallback=False, allowed_msgpack_modules=[*NAMES.values(), *classes])

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the object that was stored; raises ThreadError if it names a type that is not known."""
        kind, packed = data
        # Renaming unpacks the value a second time, so only values that hold an old name are renamed.
        if kind == "msgpack" and any(module in packed for module in _MOVED):
            packed = _renamed(packed)
        refused: list[str] = []
        owner = threading.get_ident()

        def note(event: SerdeEvent) -> None:
            if event["kind"].endswith("blocked") and threading.get_ident() == owner:
                refused.append(f"{event['module']}.{event['name']}")

        forget = register_serde_event_listener(note)
        try:
            value = super().loads_typed((kind, packed))
        finally:
            forget()
        if refused:
            raise ThreadError(
                f"expected messages and known types in a thread, found {refused[0]}; if it is a class of "
                "your application, pass it to open_threads(classes=[...]), else remove the thread"
            )
        return value


class ThreadSaver(SqliteSaver):
    """LangGraph's saver, whose errors name the row that cannot be read."""

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the newest step of a thread; raises ThreadError."""
        try:
            return super().get_tuple(config)
        except ThreadError as error:
            thread = config["configurable"].get("thread_id")
            raise ThreadError(f"thread {thread!r} in checkpoints: {error}") from error


def _renamed(packed: bytes) -> bytes:
    """Return the same value with every class under its present name."""
    value = ormsgpack.unpackb(packed, ext_hook=_renamed_object, option=ormsgpack.OPT_NON_STR_KEYS)
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def _renamed_object(code: int, payload: bytes) -> ormsgpack.Ext:
    if code == _WRAPPED:
        return ormsgpack.Ext(code, _renamed(payload))
    if code not in _OBJECTS:
        return ormsgpack.Ext(code, payload)
    module, name, *rest = ormsgpack.unpackb(
        payload, ext_hook=_renamed_object, option=ormsgpack.OPT_NON_STR_KEYS
    )
    named = NAMES.get((module, name), (module, name))
    return ormsgpack.Ext(code, ormsgpack.packb((*named, *rest), option=ormsgpack.OPT_NON_STR_KEYS))


class Threads:
    """The file of conversations.

    ```python
    with open_threads(settings.folders.threads) as threads:
        thread = threads.last() or threads.new("first question")
        agent = parts.agent(checkpointer=threads.saver)
        agent.invoke({"messages": [("user", "Hi")]}, config_of(thread))
    ```
    """

    def __init__(self, connection: sqlite3.Connection, classes: Iterable[type] = ()) -> None:
        self._db = connection
        self.saver = ThreadSaver(connection, serde=ThreadSerializer(classes))
        self.saver.setup()
        self._db.execute(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.commit()

    def new(self, title: str) -> Thread:
        """Return a new thread; `title` is the question that begins it."""
        now = time.time()
        thread = Thread(id=uuid.uuid4().hex[:8], title=" ".join(title.split())[:80], created=now, used=now)
        row = (thread.id, thread.title, thread.created, thread.used)
        self._db.execute("INSERT INTO threads VALUES (?, ?, ?, ?)", row)
        self._db.commit()
        return thread

    def touch(self, thread: Thread) -> None:
        """Mark a thread as used now."""
        self._db.execute("UPDATE threads SET used = ? WHERE id = ?", (time.time(), thread.id))
        self._db.commit()

    def all(self) -> list[Thread]:
        """Return every thread, the last used one first."""
        rows = self._db.execute(
            "SELECT id, title, created, used FROM threads ORDER BY used DESC, created DESC"
        )
        return [Thread(id=i, title=t, created=c, used=u) for i, t, c, u in rows.fetchall()]

    def find(self, name: str) -> Thread:
        """Return the thread whose id begins with `name`, or whose title it is; raises ThreadError."""
        everything = self.all()
        found = [thread for thread in everything if name and thread.id.startswith(name)]
        exact = [thread for thread in found if thread.id == name]
        titled = [thread for thread in everything if name and thread.title.casefold() == name.casefold()]
        if len(found) == 1 or exact or titled:
            return (exact or titled or found)[0]
        what = "no thread of that name" if not found else f"{len(found)} that begin so"
        raise ThreadError(f"expected the name of a thread, found {name!r} ({what}); see `agent threads list`")

    def last(self) -> Thread | None:
        """Return the thread that was used last, None if there is none."""
        return next(iter(self.all()), None)

    def rename(self, thread: Thread, title: str) -> Thread:
        """Return the thread under another title."""
        self._db.execute("UPDATE threads SET title = ? WHERE id = ?", (title, thread.id))
        self._db.commit()
        return replace(thread, title=title)

    def remove(self, thread: Thread) -> None:
        """Forget a thread and all its steps."""
        self.saver.delete_thread(thread.id)
        self._db.execute("DELETE FROM threads WHERE id = ?", (thread.id,))
        self._db.commit()

    def settle(self, thread: Thread) -> None:
        """Forget the steps that led to where a thread is now.

        Each step holds the whole conversation, so if they were kept, the file would grow with the square of
        the number of turns (21 MB after 100 turns).
        """
        # A graph inside the graph has steps of its own, in a namespace of its own.
        newest = (
            "(SELECT max(checkpoint_id) FROM checkpoints AS newest WHERE newest.thread_id = step.thread_id "
            "AND newest.checkpoint_ns = step.checkpoint_ns)"
        )
        with self._db:
            for table in ("writes", "checkpoints"):
                self._db.execute(
                    f"DELETE FROM {table} AS step WHERE thread_id = ? AND checkpoint_id < {newest}",
                    (thread.id,),
                )

    def messages(self, thread: Thread) -> list[AnyMessage]:
        """Return the messages of a thread, oldest first."""
        kept = self.saver.get_tuple({"configurable": {"thread_id": thread.id}})
        return list(kept.checkpoint["channel_values"].get("messages", [])) if kept else []

    def export(self, thread: Thread) -> str:
        """Return the thread as Markdown."""
        lines = [f"# {thread.title}", ""]
        for message in read_by_user(self.messages(thread)):
            if message.additional_kwargs.get("lc_source") == "summarization":
                lines += [f"*{message.text.strip()}*", ""]
            elif isinstance(message, HumanMessage):
                lines += [f"**You:** {message.text}", ""]
            else:
                lines += [message.text, ""]
                for cited in message.additional_kwargs.get("answer", {}).get("citations", ()):
                    lines += [f"> [{cited['number']}] {cited['source']}: {cited['quote']}", ""]
        return "\n".join(lines)


def config_of(thread: Thread) -> dict[str, Any]:
    """Return LangGraph's config that names the thread."""
    return {"configurable": {"thread_id": thread.id}, "recursion_limit": 10_000}


def is_unfinished(state: Any) -> bool:
    """Return True if a turn was stopped before its end, at a step of this graph.

    `state` is LangGraph's snapshot of the thread. Its `next` alone would not do: it is empty if a killed step
    had finished but was not applied yet.
    """
    return bool(state.next or state.tasks)


def is_stranded(agent: Any, state: Any) -> bool:
    """Return True if a turn was stopped at a step that only the graph of an earlier version has.

    LangGraph shows such a thread as finished. It is recognized by its last message, which is not an answer,
    and by a channel of the stored checkpoint that still names a next step.
    """
    last = next(iter(reversed(state.values.get("messages", []))), None)
    if is_unfinished(state) or not (isinstance(last, HumanMessage | ToolMessage) or _calls(last)):
        return False
    kept = agent.checkpointer.get_tuple(state.config)
    channels = kept.checkpoint["channel_values"]
    return bool(channels.get(TASKS)) or any(name.startswith("branch:to:") for name in channels)


def _calls(message: AnyMessage | None) -> bool:
    return isinstance(message, AIMessage) and bool(message.tool_calls)


def ask_again(agent: Any, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the input that runs a stranded turn again, in place of what there is of it.

    If a tool has already acted in the turn, close it instead (`close_turn`) and return None.
    """
    messages = agent.get_state(config).values["messages"]
    begin = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
    if any(isinstance(message, ToolMessage) for message in messages[begin:]):
        close_turn(agent, config, NOT_ANSWERED)
        return None
    gone = [RemoveMessage(id=str(message.id)) for message in messages[begin + 1 :]]
    return {"messages": [*gone, messages[begin]]}


def close_turn(agent: Any, config: dict[str, Any], text: str | None) -> None:
    """End a turn that stopped midway, so that the next one does not go on with it.

    The turn and its open tool calls are answered with `text`. Without a text (an error) the turn is removed
    from the thread, unless a tool has acted in it: that must not be forgotten.
    """
    state = agent.get_state(config)
    if not (is_unfinished(state) or is_stranded(agent, state)):
        return
    messages = state.values.get("messages", [])
    begin = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=len(messages))
    turn = messages[begin:]
    answered = {m.tool_call_id for m in turn if isinstance(m, ToolMessage)}
    # Replace the whole list: a step that could not be written may refer to messages that do not exist.
    change: list[Any] = [RemoveMessage(id=REMOVE_ALL_MESSAGES), *messages[:begin]]
    if text is not None or answered:
        said = text if text is not None else "(no answer: an error ended this turn)"
        calls = [c for m in turn if isinstance(m, AIMessage) for c in m.tool_calls if c["id"] not in answered]
        # What was said so far may quote anything that the turn has seen, and the documents that it asked.
        labels = labels_of(messages) | (
            both("your documents") if state.values.get("ask_documents") else CLEAN
        )
        change = [
            labelled(ToolMessage(said, name=c["name"], tool_call_id=c["id"], status="error"), labels)
            for c in calls
        ]
        change.append(labelled(AIMessage(said), labels))
    agent.update_state(config, {"messages": change}, as_node=AGENT)
    agent.update_state(config, None, as_node=END)


@contextmanager
def open_threads(path: Path | None, *, classes: Iterable[type] = ()) -> Iterator[Threads]:
    """Open the file of conversations, or make a private one; raises ThreadError, FolderError.

    None opens threads in memory, which end with the block. An application whose graph keeps objects of its
    own in a thread names their `classes`; a thread that holds others is refused.
    """
    if path is not None:
        private_file(path)
    connection: sqlite3.Connection | None = None
    try:
        with telling_errors(path):
            # SqliteSaver wants the WAL journal; FULL makes a step survive a power cut.
            connection = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=5)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ThreadError(
                    f"expected threads of version {VERSION} or older at {str(path)!r}, found {version}; "
                    "update this program, or set AGENT_HOME to another folder"
                )
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            yield Threads(connection, classes)
    finally:
        if connection is not None:
            connection.close()


@contextmanager
def telling_errors(path: Path | None) -> Iterator[None]:
    """Raise errors of SQLite (a lock, a full disk, a damaged file) as a ThreadError that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "busy" not in str(error):
            raise ThreadError(
                f"expected to use the threads at {str(path)!r}, found {error}; free it"
            ) from error
        raise ThreadError(
            f"expected to write the threads at {str(path)!r}, found another process holding it; end that"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ThreadError(
            f"expected a file of threads at {str(path)!r}, found a damaged one ({error}); "
            "move it away, a new one is made at the next start"
        ) from error
