"""The user's request: words, files and standard input, and the documents that are to answer it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.cli.files import Attached, read_attached, read_stdin, read_stdin_as_typed
from agent.cli.options import Args, settings_from, words_of
from agent.errors import RequestError

if TYPE_CHECKING:
    from langchain_core.messages import HumanMessage

    from agent.build import Parts
    from agent.turn.context import RunContext


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the text from files or standard input that it is about.

    Without a question the text is what the turn is about, but it is not the user's own words.
    """

    question: str
    attached: Attached = field(default_factory=Attached)

    @property
    def piped(self) -> str:
        """The text from files or standard input."""
        return self.attached.text

    @property
    def text(self) -> str:
        """What is asked: the question, or without one the text."""
        return self.question or self.piped

    @property
    def message(self) -> HumanMessage:
        """The message for the graph, which marks the part that is not the user's own words."""
        from agent.turn.messages import user_message

        attached = self.attached
        return user_message(
            self.question, attached=attached.text, origin=attached.origin, sections=attached.sections
        )


def read_question(args: Args) -> Question:
    """Return the question from words, files and standard input; raises RequestError if all are empty."""
    question = words_of(args.question)
    attached = read_attached(args.file)
    if args.template:
        question = _templated(question, args)
    if not question and not attached.text.strip():
        raise RequestError('expected a question, found an empty one; for example: agent ask "what is NF4?"')
    if args.docs_only and args.no_docs:
        raise RequestError("expected --docs-only or --no-docs, found both; drop one of them")
    return Question(question=question, attached=attached if question else attached.stripped())


def _templated(question: str, args: Args) -> str:
    from agent.storage.templates import fill, read_template

    text = read_template(settings_from(args).folders.templates, args.template)
    return fill(text, question=question, values=dict(args.values))


def words_or_stdin(words: list[str], *, as_typed: bool = False) -> str:
    """Return the words, or if there are none or only `-` the text on standard input.

    With `as_typed` it is not parsed: an HTML page that is to be completed stays HTML.
    """
    given = words_of([word for word in words if word != "-"])
    return given or (read_stdin_as_typed() if as_typed else read_stdin())


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
