"""The turns of `ask` and `chat`: their thread and its log, approvals, and signals."""

from __future__ import annotations

import json
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.startup import keep_few_heaps, started
from agent.turn.context import RunContext
from agent.turn.events import Approval, Delta, Final, ToolCall, stream_events

if TYPE_CHECKING:
    from langchain_core.messages import AnyMessage

    from agent.build import Parts
    from agent.cli.printing import Printer
    from agent.storage.threads import Thread
    from agent.trace import Trace

REJECTED = "the user did not allow it."


class Session:
    """An agent, the thread that it talks in, and the log. Use it as a context manager.

        with Parts(load_settings()) as parts, Session(parts, RunContext(), keep=True) as session:
            session.turn([HumanMessage("What is NF4?")], TextPrinter())

    Unless `keep` is set and logging is on, threads live in memory and end with the session.
    """

    def __init__(self, parts: Parts, context: RunContext, *, keep: bool, trace: Trace | None = None) -> None:
        from agent.storage.threads import open_threads

        keep_few_heaps()
        self.keep = keep and parts.settings.logging
        self.trace = trace
        self.thread: Thread | None = None
        self._path = parts.settings.folders.threads if self.keep else None
        with ExitStack() as stack:
            self.threads = stack.enter_context(open_threads(self._path))
            self.rebuild(parts, context)
            self._stack = stack.pop_all()  # Only now nothing can fail that would leave the database open.
        started()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database of threads."""
        self._stack.close()

    def rebuild(self, parts: Parts, context: RunContext) -> None:
        """Go on in the same thread with other parts or another context; if it raises, nothing has changed."""
        self._agent = parts.agent(
            documents=context.docs != "off", tools=context.tools != "off", checkpointer=self.threads.saver
        )
        self.parts = parts
        self.context = replace(context, approve=parts.settings.approve or ("ask" if can_ask() else "deny"))

    def continue_last(self, name: str | None = None) -> None:
        """Go on in the named thread, or in the one used last; raises ThreadError if there is none."""
        from agent.errors import ThreadError

        if not self.keep:
            raise ThreadError("expected threads to be kept, found logging off; switch it on: agent logs on")
        self.thread = self.threads.find(name) if name else self.threads.last()
        if self.thread is None:
            raise ThreadError("expected a thread to continue, found none; begin one: agent chat")

    def turn(self, messages: Sequence[AnyMessage], printer: Printer) -> Final | None:
        """Run one turn, log it and return the answer; raises ThreadError if its steps cannot be written.

        A turn of this thread that was not finished is finished first. The last of `messages` asks the
        question.
        """
        from agent.storage.threads import telling_errors
        from agent.turn.messages import question_of

        question = question_of(messages) or ""
        with telling_errors(self._path):
            config = self._config(question)
            self._finish_waiting(config, printer)
            final = self._run({"messages": list(messages)}, printer, config)
            if self.thread is not None:
                self.threads.touch(self.thread)
                self.threads.settle(self.thread)
        if final is not None and self.keep:
            self._log(question, final)
        return final

    def _run(self, inputs: Any, printer: Printer, config: dict[str, Any]) -> Final | None:
        """Run a turn; close one that Ctrl-C or an error ends, so that the next one starts clean."""
        from agent.storage.threads import close_turn
        from agent.turn.context import Stop, Stopped

        stop, pieces = Stop(), list[str]()
        context = replace(self.context, stop=stop)
        try:
            with ending_on_signals(stop.set):
                return run_turn(
                    self._agent, inputs, printer=printer, context=context, config=config, pieces=pieces
                )
        except (KeyboardInterrupt, Stopped) as end:
            close_turn(self._agent, config, "".join([*pieces, " (stopped)"]).strip())
            raise KeyboardInterrupt from end
        except Exception:
            close_turn(self._agent, config, None)
            raise

    def last_turn(self, question: str) -> list[Any]:
        """Return the messages that remove this question and its answer, if it was the last one asked."""
        from langchain_core.messages import HumanMessage, RemoveMessage

        messages = self._agent.get_state(self._config("")).values.get("messages", [])
        asked = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
        if not asked or messages[asked[-1]].text != question:
            return []  # A turn that ends in an error is removed from the thread at once.
        return [RemoveMessage(id=message.id) for message in messages[asked[-1] :]]

    def _config(self, question: str) -> dict[str, Any]:
        from agent.storage.threads import config_of

        if self.thread is None:
            self.thread = self.threads.new(question)
        callbacks: list[Any] = [self.trace] if self.trace is not None else []
        if self.parts.settings.otel:
            callbacks.append(self.parts.spans)
        return {**config_of(self.thread), "callbacks": callbacks}

    def _finish_waiting(self, config: dict[str, Any], printer: Printer) -> None:
        """Finish a turn of this thread that was killed or waits for an approval."""
        from langgraph.types import Command

        from agent.storage.threads import ask_again, is_stranded, is_unfinished
        from agent.turn.events import approvals
        from agent.turn.state import clock_started

        state = self._agent.get_state(config)
        stranded = is_stranded(self._agent, state)
        if not (stranded or is_unfinished(state)):
            return
        console.note("the last turn of this thread was not finished; it goes on first")
        waiting = approvals(state)
        inputs: Any
        if waiting and self.context.approve != "ask":
            refused = {"type": "reject", "message": "nobody is here to allow it."}
            inputs = Command(resume={pause.id: refused for pause in waiting})
        elif stranded:
            inputs = ask_again(self._agent, config)
            if inputs is None:
                return
        else:
            inputs = answers(waiting) if waiting else Command(update=clock_started())
        self._run(inputs, printer, config)

    def _log(self, question: str, final: Final) -> None:
        from agent.storage.logs import open_logs

        settings = self.parts.settings
        with open_logs(settings.folders.logs) as logs:
            if logs.first:
                console.note(
                    f"questions and answers are kept at {settings.folders.logs} (this machine only); "
                    "`agent logs off` switches that off"
                )
            logs.expire(settings.log_days)
            facts = {"citations": final.citations, "usage": final.usage, "label": final.label}
            thread = self.thread.id if self.thread is not None else None
            logs.add(
                question, final.text, grounded=final.grounded, model=final.model, thread=thread, facts=facts
            )


def run_turn(
    agent: Any,
    inputs: Any,
    *,
    printer: Printer,
    context: RunContext,
    config: dict[str, Any] | None = None,
    pieces: list[str] | None = None,
) -> Final | None:
    """Run a turn to its end, ask for approvals on the way, and return the answer.

    If `inputs` is None, a turn that was killed goes on. The text of the answer is added to `pieces` as it
    arrives, for a caller that stops the turn.
    """
    pieces = [] if pieces is None else pieces
    final: Final | None = None
    while True:
        pauses: list[Approval] = []
        for event in stream_events(agent, inputs, context=context, config=config):
            printer.show(event)
            if isinstance(event, Delta):
                pieces.append(event.text)
            elif isinstance(event, ToolCall):
                pieces.clear()
            final = event if isinstance(event, Final) else final
            if isinstance(event, Approval):
                pauses.append(event)
        if not pauses:
            return final
        inputs = answers(pauses)


@contextmanager
def ending_on_signals(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` before the usual handlers of Ctrl-C, SIGTERM and SIGHUP while the block runs.

    The graph waits for its own threads before an exception leaves it; `end` makes those threads return.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    usual = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: Any) -> None:
        end()
        then = usual[signal.Signals(number)]
        if callable(then):
            then(number, frame)

    for number in numbers:
        if callable(usual[number]):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, then in usual.items():
            signal.signal(number, then)


def can_ask() -> bool:
    """Return whether the user can be asked: stdin and stderr are terminals."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def answers(pauses: list[Approval]) -> Any:
    """Ask for each approval and return LangGraph's command with the decisions."""
    from langgraph.types import Command

    decisions = {pause.id: _ask(request) for pause in pauses for request in pause.requests}
    return Command(resume=decisions)


_ALWAYS = {
    "clean": "[a]lways in this thread while no other text is in it",
    "untrusted": "[a]lways in this thread, also with text from documents, files and tools",
}


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Show what will happen and return the decision: yes, no, edit, or always in this thread."""
    console.say(request["description"])
    always = request.get("always")
    choices = ["[y]es", "[n]o", "[e]dit", *([_ALWAYS[always]] if always else [])]
    while True:
        try:
            reply = _input(f"allow? {', '.join(choices)}: ").strip().lower()
        except EOFError:
            reply = "n"
        if reply in ("y", "yes"):
            return {"type": "approve"}
        if reply in ("n", "no", ""):
            return {"type": "reject", "message": REJECTED}
        if reply in ("a", "always") and always:
            return {"type": "approve", "always": always}
        if reply in ("e", "edit") and (args := _edited(request["args"])) is not None:
            return {"type": "edit", "edited_action": {"name": request["name"], "args": args}}


def _edited(args: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments as the user changes them; None if one cannot be read."""
    changed: dict[str, Any] = {}
    for name, value in args.items():
        shown = json.dumps(value, ensure_ascii=False)
        typed = _input(f"{name} [{console.shorten(shown, 60)}] (JSON or text, empty keeps it): ")
        if not typed.strip():
            changed[name] = value
            continue
        try:
            changed[name] = json.loads(typed)
        except ValueError:
            changed[name] = typed if isinstance(value, str) else None
        if changed[name] is None and value is not None:
            console.say(f"expected JSON like {shown}, found {typed!r}")
            return None
    return changed


def _input(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    # A Ctrl-C that arrives just before a blocking read would be handled after it, so no wait is long.
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
