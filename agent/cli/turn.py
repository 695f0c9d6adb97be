"""One turn from the keyboard's side: show its events, and where it waits for approval, ask and go on.

Knows the terminal's questions and answers. Refuses to know what is asked about and why (`agent.guard.policy`
says so).
"""

from __future__ import annotations

import json
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.turn.events import Approval, Delta, Event, Final, ToolCall, stream_events

if TYPE_CHECKING:
    from agent.cli.printing import Printer
    from agent.turn.context import RunContext

REJECTED = "the user did not allow it."


def run_turn(
    agent: Any,
    inputs: Any,
    *,
    printer: Printer,
    context: RunContext,
    config: dict[str, Any] | None = None,
    said: list[str] | None = None,
) -> Final | None:
    """Run a turn to its end, asking for approvals on the way; returns the answer.

    Without `inputs` a turn that was killed goes on where it stopped. `said` collects the pieces of the answer
    as they come, for the case that the turn has no end.
    """
    said = [] if said is None else said
    final: Final | None = None
    while True:
        pauses: list[Approval] = []
        for event in stream_events(agent, inputs, context=context, config=config):
            printer.show(event)
            if isinstance(event, Delta):
                said.append(event.text)
            elif isinstance(event, ToolCall):
                said.clear()
            final = event if isinstance(event, Final) else final
            if isinstance(event, Approval):
                pauses.append(event)
        if not pauses:
            return final
        inputs = answers(pauses)


@contextmanager
def ending_on_signals(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` before the usual handlers of Ctrl-C, SIGTERM and SIGHUP, while the block runs.

    The graph waits for its own threads before it lets an exception through; `end` makes them come back.
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
    """Whether there is somebody to ask: a keyboard and a screen."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def answers(pauses: list[Approval]) -> Any:
    """LangGraph's command that carries the user's decisions."""
    from langgraph.types import Command

    decisions: dict[str, Any] = {}
    always: list[str] = []
    for pause in pauses:
        for request in pause.requests:
            decisions[pause.id] = _ask(request, always)
    return Command(resume=decisions, update={"allowed_tools": always} if always else None)


def _ask(request: dict[str, Any], always: list[str]) -> dict[str, Any]:
    """Show exactly what will happen and take y, n, e (edit) or a (always, for this thread)."""
    console.say(request["description"])
    while True:
        try:
            reply = _input("allow? [y]es, [n]o, [e]dit, [a]lways in this thread: ").strip().lower()
        except EOFError:
            reply = "n"
        if reply in ("y", "yes"):
            return {"type": "approve"}
        if reply in ("n", "no", ""):
            return {"type": "reject", "message": REJECTED}
        if reply in ("a", "always"):
            always.append(request["name"])
            return {"type": "approve"}
        if reply in ("e", "edit") and (args := _edited(request["args"])) is not None:
            return {"type": "edit", "edited_action": {"name": request["name"], "args": args}}


def _edited(args: dict[str, Any]) -> dict[str, Any] | None:
    """New arguments as the user types them, None where they cannot be read."""
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
    # A Ctrl-C that comes just before a blocking read would be seen after it: so nothing blocks for long.
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


__all__ = ["Event", "can_ask", "run_turn"]
