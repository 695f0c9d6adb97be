"""The user's request: words, files and standard input, and the documents that are to answer it."""

from __future__ import annotations

import os
import select
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.cli import console
from agent.cli.options import Args, settings_from, words_of
from agent.errors import RequestError

if TYPE_CHECKING:
    from langchain_core.messages import HumanMessage

    from agent.build import Parts
    from agent.turn.context import RunContext

MAX_BYTES = 10 * 2**20
"""Largest text file that is read whole."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the text from files or standard input that it is about.

    Without a question the text is what the turn is about, but it is not the user's own words.
    """

    question: str
    piped: str = ""
    origin: str = "standard input"

    @property
    def text(self) -> str:
        """What is asked: the question, or without one the text."""
        return self.question or self.piped

    @property
    def message(self) -> HumanMessage:
        """The message for the graph, which marks the part that is not the user's own words."""
        from agent.turn.messages import user_message

        return user_message(self.question, attached=self.piped, origin=self.origin)


def read_question(args: Args) -> Question:
    """Return the question from words, files and standard input; raises RequestError if all are empty."""
    question = words_of(args.question)
    piped = "\n\n".join(text for text in (*map(read_text, args.file), read_stdin()) if text)
    origin = ", ".join([*args.file, *(["standard input"] if piped and not args.file else [])])
    if args.template:
        question = _templated(question, args)
    if not question and not piped.strip():
        raise RequestError('expected a question, found an empty one; for example: agent ask "what is NF4?"')
    if args.docs_only and args.no_docs:
        raise RequestError("expected --docs-only or --no-docs, found both; drop one of them")
    return Question(question=question, piped=piped if question else piped.strip(), origin=origin)


def _templated(question: str, args: Args) -> str:
    from agent.storage.templates import fill, read_template

    text = read_template(settings_from(args).folders.templates, args.template)
    return fill(text, question=question, values=dict(args.values))


def words_or_stdin(words: list[str]) -> str:
    """Return the words, or standard input if there are none or only `-`."""
    return words_of([word for word in words if word != "-"]) or read_stdin()


def read_stdin() -> str:
    """Return the text that is piped or redirected into the program, or ""; never waits for a keyboard."""
    if sys.stdin is None or sys.stdin.closed:
        return ""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    if not select.select([sys.stdin.fileno()], [], [], 1.0)[0]:
        console.note("agent: waiting for standard input (Ctrl-C ends; `< /dev/null` gives none) …")
    data = sys.stdin.buffer.read()
    text = data.decode("utf-8", "replace")
    if "\ufffd" in text and b"\xef\xbf\xbd" not in data:
        console.note("agent: standard input is not valid UTF-8; the bytes that are not show as \ufffd")
    return text


def read_text(path: str) -> str:
    """Return the text of a file; raises RequestError if it cannot be read, is too large or is not UTF-8."""
    try:
        file = Path(path).expanduser()
        if not file.is_file():
            raise RequestError(f"expected a file, found none at {path!r}; check the path")
        if file.stat().st_size > MAX_BYTES:
            raise RequestError(
                f"expected at most {MAX_BYTES:,} bytes, found {file.stat().st_size:,} in {path!r}"
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"expected UTF-8 text in {path!r}, found {error.reason}; ingest it instead"
        ) from error
    except OSError as error:
        raise RequestError(f"expected a file that can be read at {path!r}, found {error.strerror}") from error


def write_new(path: str, text: str, *, force: bool = False) -> None:
    """Write a file that does not exist yet, or with `force` replace one; raises RequestError."""
    file = Path(path).expanduser()
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text if text.endswith("\n") else text + "\n")
    except FileExistsError as error:
        raise RequestError(
            f"expected no file at {path!r}, found one; name another, or pass --force"
        ) from error
    except OSError as error:
        raise RequestError(
            f"expected a file that can be written at {path!r}, found {error.strerror}"
        ) from error


def context_for(parts: Parts, args: Args, *, piped: bool) -> RunContext:
    """Ingest what `--docs` names and return the context of a turn.

    Text that was piped in is itself what the question is about, so no documents are searched then unless
    the options ask for it.
    """
    from agent.turn.context import RunContext

    if args.docs:
        from agent.cli.docs import ingest_paths

        ingest_paths(parts, args.docs)
    off = args.no_docs or (piped and not args.docs and not args.docs_only)
    docs: Literal["auto", "only", "off"] = "off" if off else "auto"
    if args.docs_only:
        docs = "only"
        if not parts.has_documents():
            raise RequestError(
                f"expected documents in the store {str(parts.settings.store)!r}, found none; "
                "ingest some first: agent ingest PATH, or pass --docs PATH"
            )
    return RunContext(docs=docs, tools="auto" if args.tools else "off")
