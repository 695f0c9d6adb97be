"""What `ask` and `chat` share: the agent on its thread, a turn, and the log of it.

Knows how the pieces of a turn are put together for the command line. Refuses to know how events look.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.collector import started
from agent.cli.turn import answers, can_ask, ending_on_signals, run_turn
from agent.turn.context import RunContext

if TYPE_CHECKING:
    from pathlib import Path

    from agent.build import Parts
    from agent.cli.printing import Printer
    from agent.storage.threads import Thread, Threads
    from agent.trace import Trace
    from agent.turn.events import Final


class Session:
    """An agent, the thread it talks in, and the log; use it as a context manager.

    Without `keep` its threads are in memory, and gone with it.
    """

    threads: Threads

    def __init__(self, parts: Parts, context: RunContext, *, keep: bool, trace: Trace | None = None) -> None:
        self.parts = parts
        self.context = context
        self.keep = keep and parts.settings.logging
        self.trace = trace
        self.thread: Thread | None = None
        self._path: Path | None = None
        self._stack = ExitStack()
        self._agent: Any = None

    def __enter__(self) -> Session:
        from agent.arenas import keep_few_heaps
        from agent.storage.threads import open_threads

        keep_few_heaps()
        self._path = self.parts.settings.folders.threads if self.keep else None
        self.threads = self._stack.enter_context(open_threads(self._path))
        self.rebuild(self.parts, self.context)
        started()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def rebuild(self, parts: Parts, context: RunContext) -> None:
        """Go on in the same thread with other parts or another context; an error changes nothing."""
        self._agent = parts.agent(
            documents=context.docs != "off", tools=context.tools != "off", checkpointer=self.threads.saver
        )
        self.parts = parts
        self.context = replace(context, approve=parts.settings.approve or ("ask" if can_ask() else "deny"))

    def continue_last(self, name: str | None = None) -> None:
        """Go on in the named thread, or in the one used last; raises ThreadError where there is none."""
        from agent.errors import ThreadError

        if not self.keep:
            raise ThreadError("expected threads to be kept, found logging off; switch it on: agent logs on")
        self.thread = self.threads.find(name) if name else self.threads.last()
        if self.thread is None:
            raise ThreadError("expected a thread to continue, found none; begin one: agent chat")

    def turn(self, inputs: Any, question: str, printer: Printer) -> Final | None:
        """Run one turn and log it; raises ThreadError where its steps cannot be written."""
        from agent.storage.threads import telling_errors

        with telling_errors(self._path):
            config = self._config(question)
            self._finish_waiting(config, printer)
            final = self._run(inputs, printer, config)
            if self.thread is not None:
                self.threads.touch(self.thread)
                self.threads.settle(self.thread)
        if final is not None and self.keep:
            self._log(question, final)
        return final

    def _run(self, inputs: Any, printer: Printer, config: dict[str, Any]) -> Final | None:
        """Run a turn; one that Ctrl-C or an error ends is closed, so that the next begins afresh."""
        from agent.storage.threads import close_turn
        from agent.turn.context import Stop, Stopped

        stop, said = Stop(), list[str]()
        context = replace(self.context, stop=stop)
        try:
            with ending_on_signals(stop.set):
                return run_turn(
                    self._agent, inputs, printer=printer, context=context, config=config, said=said
                )
        except (KeyboardInterrupt, Stopped) as end:
            close_turn(self._agent, config, "".join([*said, " (stopped)"]).strip())
            raise KeyboardInterrupt from end
        except Exception:
            close_turn(self._agent, config, None)
            raise

    def last_turn(self, question: str) -> list[Any]:
        """What takes this question, where it came last, and its answer out of the thread."""
        from langchain_core.messages import HumanMessage, RemoveMessage

        messages = self._agent.get_state(self._config("")).values.get("messages", [])
        asked = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
        if not asked or messages[asked[-1]].text != question:
            return []  # its turn ended in an error, and is out of the thread already
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
        """A turn of this thread that was killed, or waits for an approval, ends before the next begins."""
        from langgraph.types import Command

        from agent.storage.threads import is_unfinished
        from agent.turn.events import approvals

        state = self._agent.get_state(config)
        if not is_unfinished(state):
            return
        console.note("the last turn of this thread was not finished; it goes on first")
        waiting = approvals(state)
        if waiting and self.context.approve != "ask":
            refused = {"type": "reject", "message": "nobody is here to allow it."}
            inputs: Any = Command(resume={pause.id: refused for pause in waiting})
        else:
            inputs = answers(waiting) if waiting else None
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
