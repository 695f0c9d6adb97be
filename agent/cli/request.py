"""What is asked: the words of the command line, standard input before them, and the documents to ask.

Turns options into a request and its context. Knows nothing of models and graphs.
"""

from __future__ import annotations

import argparse
import os
import select
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agent.cli import console
from agent.cli.files import read_text
from agent.cli.options import settings_from, words_of
from agent.errors import RequestError

if TYPE_CHECKING:
    from agent.build import Parts
    from agent.turn.context import RunContext

Docs = Literal["auto", "only", "off"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The question alone, and the text that was piped in before it."""

    question: str
    piped: str = ""
    origin: str = "standard input"

    @property
    def inputs(self) -> Any:
        """What the graph is given: one message, which says what in it is not the user's own."""
        from langchain_core.messages import HumanMessage

        from agent.guard.taint import OWN_INPUT, UNTRUSTED

        if not self.piped:
            return {"messages": [HumanMessage(self.question)]}
        text = "\n\n".join((self.piped, self.question))
        marks = {UNTRUSTED: self.origin, OWN_INPUT: self.question}
        return {"messages": [HumanMessage(text, additional_kwargs=marks)]}


def read_request(args: argparse.Namespace) -> Request:
    """The question from words, files and standard input; raises RequestError where all are empty."""
    question = words_of(args.question)
    piped = "\n\n".join(text for text in (*map(read_text, args.file), read_stdin()) if text)
    origin = ", ".join([*args.file, *(["standard input"] if piped and not args.file else [])])
    if args.template:
        question = _templated(question, args)
    if not question and not piped.strip():
        raise RequestError('expected a question, found an empty one; for example: agent ask "what is NF4?"')
    if args.docs_only and args.no_docs:
        raise RequestError("expected --docs-only or --no-docs, found both; drop one of them")
    if not question:
        return Request(question=piped.strip())
    return Request(question=question, piped=piped, origin=origin or "standard input")


def _templated(question: str, args: argparse.Namespace) -> str:
    from agent.storage.templates import fill, read_template

    text = read_template(settings_from(args).folders.templates, args.template)
    return fill(text, question=question, values=dict(args.values))


def read_stdin() -> str:
    """Text piped or redirected into the program, empty where there is none; never waits for a keyboard."""
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


def prepare(request: Request, parts: Parts, args: argparse.Namespace) -> RunContext:
    """The turn's context, after ingesting what `--docs` names."""
    return context_for(parts, args, piped=bool(request.piped))


def context_for(parts: Parts, args: argparse.Namespace, *, piped: bool) -> RunContext:
    """The context that the options ask for; piped text is asked about and not looked up."""
    from agent.turn.context import RunContext

    if args.docs:
        from agent.cli.ingest import ingest_paths

        ingest_paths(parts, args.docs)
    docs: Docs = "off" if args.no_docs or (piped and not args.docs and not args.docs_only) else "auto"
    if args.docs_only:
        docs = "only"
        if not parts.has_documents():
            raise RequestError(
                f"expected documents in the store {str(parts.settings.store)!r}, found none; "
                "ingest some first: agent ingest PATH, or pass --docs PATH"
            )
    return RunContext(docs=docs, tools="auto" if args.tools else "off")
