"""The loop of `agent chat`: typed lines, slash commands, turns and Ctrl-C."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import Args
from agent.cli.printing import TextPrinter
from agent.cli.session import Session
from agent.errors import RequestError

if TYPE_CHECKING:
    from agent.build import Parts
    from agent.turn.context import RunContext

FENCE = '"""'

HELP = f"""\
/help            this list
/model [NAME]    show the model, or go on with another
/system [TEXT]   show or set the system prompt
/docs [on|off|only|PATH]   ask the documents or leave them alone; a path is ingested
/tools [on|off]  offer the tools or none
/save NAME       keep the thread under another title
/load NAME       go on in another thread, by its name or its title
/remember TEXT   note something for all later conversations
/notes           what is noted; /forget NUMBER takes a note out
/retry           ask the last question again
/clear           begin a new thread
/tokens          show token counts after each answer, or stop
/bye             end
{FENCE}              begins and ends a message of several lines"""


class Repl:
    """A chat. Use it as a context manager.

        with Repl(parts, RunContext(), args) as repl:
            repl.handle("/model mistral-7b")
            repl.loop(sys.stdin)

    Ctrl-C ends the answer that is being written, or empties a line; a second one in a row ends the program.
    """

    def __init__(self, parts: Parts, context: RunContext, args: Args) -> None:
        self._parts, self._context, self._args = parts, context, args
        self._session = Session(parts, context, keep=not args.no_log)
        self._show_tokens = bool(args.tokens)
        self._last_question = ""
        self._done = False
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "?": self._help,
            "model": self._model,
            "system": self._system,
            "docs": self._docs,
            "tools": self._tools,
            "save": self._save,
            "load": self.resume,
            "retry": self._retry,
            "remember": self._remember,
            "notes": self._notes,
            "forget": self._forget,
            "clear": self._clear,
            "tokens": self._toggle_tokens,
            "bye": self._end,
            "exit": self._end,
            "quit": self._end,
        }

    def __enter__(self) -> Repl:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._parts.close()

    def loop(self, stream: IO[str]) -> None:
        """Read messages and answer them until /bye or the end of the stream."""
        if isinstance(stream, io.TextIOWrapper):  # Invalid UTF-8 becomes a replacement character.
            stream.reconfigure(encoding="utf-8", errors="replace")
        if stream.isatty():
            console.say("/help lists the commands, /bye ends")
        interrupted = False
        while not self._done:
            try:
                text = self._read(stream)
                if text is None:
                    break
                interrupted = False
                self.handle(text)
            except KeyboardInterrupt:
                # The first one ends an answer or empties the line; a second one in a row ends the program.
                if interrupted:
                    raise
                interrupted = True
                console.say("\n(Ctrl-C again, or /bye, ends the chat)")
        if self._session.thread is not None and self._session.keep:
            console.note(f"to go on: agent chat --thread {self._session.thread.id}")

    def handle(self, text: str) -> None:
        """Run a command or answer a message; an error ends the turn, not the chat."""
        text = text.strip()
        if not text:
            return
        from agent import errors

        try:
            if text.startswith("/"):
                self._command(text)
            else:
                self._answer(text)
        except Exception as error:  # The next turn works, whatever this error is.
            console.show_error(error, known=errors.is_known(error))
            if self._args.debug:
                raise

    def resume(self, name: str | None) -> None:
        """Go on in a thread, the last one if no name is given, and show its last question and answer."""
        self._session.continue_last(name or None)
        thread = self._session.thread
        if thread is not None:
            console.say(f"thread {thread.id}: {thread.title}")
            messages = [message for message in self._session.threads.messages(thread) if message.text]
            for message in messages[-2:]:
                console.say(f"  {message.type}: {console.shorten(message.text, 300)}")

    def _command(self, text: str) -> None:
        name, _, rest = text[1:].partition(" ")
        command = self._commands.get(name.lower())
        if command is None:
            raise RequestError(f"expected a command, found {'/' + name!r}; /help lists them")
        command(rest.strip())

    def _answer(self, text: str, instead_of: Sequence[Any] = ()) -> None:
        from langchain_core.messages import HumanMessage

        self._last_question = text
        printer = TextPrinter(tool_debug=self._args.tool_debug)
        final = self._session.turn([*instead_of, HumanMessage(text)], printer)
        if self._show_tokens and final is not None:
            usage = final.usage
            console.say(f"tokens: {usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out")

    def _read(self, stream: IO[str]) -> str | None:
        """Return a line, or the lines between two sets of three quotes; None at the end."""
        line = self._line(stream, "> ")
        if line is None or not line.lstrip().startswith(FENCE):
            return line
        parts = [line.lstrip()[len(FENCE) :]]
        while not parts[-1].rstrip().endswith(FENCE):
            more = self._line(stream, ". ")
            if more is None:
                break
            parts.append(more)
        return "\n".join(parts).rstrip().removesuffix(FENCE)

    def _line(self, stream: IO[str], prompt: str) -> str | None:
        if stream.isatty() and sys.stderr.isatty():
            return read_line(prompt, self._parts.settings.folders.history if self._session.keep else None)
        line = stream.readline()
        return line.rstrip("\n") if line else None

    def _rebuild(self) -> None:
        """Give the session the current parts and context, on the same thread."""
        self._session.rebuild(self._parts, self._context)

    def _help(self, _: str) -> None:
        console.say(HELP)

    def _end(self, _: str) -> None:
        self._done = True

    def _change(self, **values: Any) -> None:
        """Go on with other settings; if that raises, nothing has changed."""
        from agent.settings import check_values

        check_values(values)
        fresh = self._parts.changed(values)
        try:
            self._session.rebuild(fresh, self._context)
        except Exception:  # The chat goes on with the model that it has.
            fresh.close()
            raise
        self._parts.close()
        self._parts = fresh

    def _model(self, name: str) -> None:
        if name:
            self._change(model=name)
        runtime = self._parts.local_model.loaded_runtime()
        loaded = f" ({runtime.loaded.name} on {runtime.loaded.device})" if runtime is not None else ""
        console.say(f"model {self._parts.settings.model}{loaded}")

    def _system(self, text: str) -> None:
        if text:
            self._change(system=text)
        console.say(f"system prompt: {self._parts.settings.system or 'none'}")

    def _docs(self, choice: str) -> None:
        named = {"on": "auto", "off": "off", "only": "only"}.get(choice)
        if choice and named is None:
            from agent.cli.docs import ingest_paths

            ingest_paths(self._parts, [choice])
            named = "auto"
        if named is not None:
            self._context = replace(self._context, docs=named)  # type: ignore[arg-type]
            self._rebuild()
        console.say(f"documents: {self._context.docs}")

    def _tools(self, choice: str) -> None:
        if choice in ("on", "off"):
            self._context = replace(self._context, tools="auto" if choice == "on" else "off")
            self._rebuild()
        names = ", ".join(tool.name for tool in self._parts.tools) or "none"
        console.say(f"tools: {'on' if self._context.tools == 'auto' else 'off'} ({names})")

    def _toggle_tokens(self, _: str) -> None:
        self._show_tokens = not self._show_tokens
        console.say(f"token counts: {'on' if self._show_tokens else 'off'}")

    def _remember(self, text: str) -> None:
        from agent.storage.notes import add_note

        console.say(f"noted: {add_note(self._parts.settings.folders.notes, text)}")
        self._rebuild()

    def _notes(self, _: str) -> None:
        from agent.cli.history import show_notes
        from agent.storage.notes import read_notes

        show_notes(read_notes(self._parts.settings.folders.notes))

    def _forget(self, numbers: str) -> None:
        from agent.cli.history import forget_notes

        for note in forget_notes(self._parts.settings.folders.notes, numbers.split()):
            console.say(f"forgot: {note}")
        self._rebuild()

    def _save(self, title: str) -> None:
        if not self._session.keep:
            raise RequestError("expected threads to be kept, found logging off; switch it on: agent logs on")
        if self._session.thread is None:
            raise RequestError("expected a thread that has begun, found none; say something first")
        if not title:
            raise RequestError("expected a title after /save, found none; for example: /save my talk")
        self._session.thread = self._session.threads.rename(self._session.thread, title)
        console.say(f"thread {self._session.thread.id}: {title}")

    def _retry(self, _: str) -> None:
        if not self._last_question:
            raise RequestError("expected a question to ask again, found none; ask one first")
        self._answer(self._last_question, self._session.last_turn(self._last_question))

    def _clear(self, _: str) -> None:
        self._session.thread = None
        self._rebuild()
        console.say("a new thread")


def read_line(prompt: str, history: Path | None) -> str | None:
    """Return a line typed with editing and history; None at the end of the input.

    Ctrl-C empties a line that has begun, and raises KeyboardInterrupt on an empty one.
    """
    editor = _line_editor(history)
    try:
        return str(editor.prompt(prompt))
    except EOFError:
        return None
    except KeyboardInterrupt:
        if editor.default_buffer.text.strip():
            return ""
        raise


@lru_cache(maxsize=1)
def _line_editor(history: Path | None) -> Any:
    """Return prompt_toolkit's editor, whose history file only the user can read."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    from agent.folders import private_file

    kept = FileHistory(str(private_file(history))) if history is not None else InMemoryHistory()
    return PromptSession(history=kept, output=create_output(stdout=sys.stderr))
