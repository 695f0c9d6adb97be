"""Printers of a turn's events: streamed text, the whole text at once, or NDJSON.

Knows every kind of event and how it looks; refuses to know where events come from.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from typing import Protocol

from agent import errors as exit_codes
from agent.cli import console
from agent.cli.markdown import Markdown
from agent.turn.events import Approval, Delta, Event, Final, Label, Notice, ToolCall, ToolResult


class Printer(Protocol):
    """Shows events as they come."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self, *, fail_ungrounded: bool = False) -> int:
        """End the output; returns the exit code."""


def printer_for(args: argparse.Namespace) -> Printer:
    """The printer that the options ask for."""
    if args.json:
        return JsonPrinter()
    if args.extract:
        return CodePrinter()
    return TextPrinter(stream=not args.no_stream, tool_debug=args.tool_debug)


class _Base:
    final: Final | None = None

    def _code(self, fail_ungrounded: bool) -> int:
        grounded = self.final is not None and self.final.grounded
        return exit_codes.UNGROUNDED if fail_ungrounded and not grounded else exit_codes.DONE


class TextPrinter(_Base):
    """The answer on stdout, its sources under it; everything else on stderr."""

    def __init__(self, *, stream: bool = True, tool_debug: bool = False) -> None:
        self._stream = stream
        self._tool_debug = tool_debug
        self._written = ""
        width = console.styled_width()
        self._markdown = Markdown(width) if width is not None else None

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Label):
            self._write(event.text + "\n")
        elif isinstance(event, Delta):
            self._write(event.text)
        elif isinstance(event, Notice):
            if event.kind == "status" or self._tool_debug:
                self._break_line()
                console.note(event.text)
        elif isinstance(event, ToolCall | ToolResult):
            self._show_tool(event)
        elif isinstance(event, Final):
            self._finish(event)

    def close(self, *, fail_ungrounded: bool = False) -> int:
        """End the output; returns the exit code."""
        return self._code(fail_ungrounded)

    def _write(self, text: str) -> None:
        if self._stream:
            self._show_text(text)
            self._written += text

    def _show_text(self, text: str) -> None:
        """Show a piece of the answer, styled where stdout is a terminal."""
        if self._markdown is None:
            console.out(text)
        else:
            console.raw(self._markdown.feed(console.harmless(text)))

    def _break_line(self) -> None:
        """What is noted while an answer is being written stands on a line of its own, where both are seen."""
        if self._markdown is not None and self._written and not self._written.endswith("\n"):
            console.raw(self._markdown.end() + "\n")
            self._written += "\n"

    def _show_tool(self, event: ToolCall | ToolResult) -> None:
        if not self._tool_debug:
            return
        if isinstance(event, ToolCall):
            console.note(
                f"tool {event.name}({console.shorten(json.dumps(event.args, ensure_ascii=False), 200)})"
            )
        else:
            console.note(f"tool {event.name} {event.status}: {console.shorten(event.text, 200)}")

    def _finish(self, event: Final) -> None:
        self.final = event
        if not self._stream:
            label = f"{event.label}\n" if event.label else ""
            self._show_text(label + event.text)
        elif event.text.rstrip()[-20:] not in self._written:
            self._show_text(event.text)  # never streamed: an answer given by a middleware
        if self._markdown is not None:
            console.raw(self._markdown.end())
        if self._markdown is None or not self._written.endswith("\n"):
            console.line()
        console.show_sources(event.citations)
        if event.label and event.nearest:
            names = {
                console.display_path(str(passage.get("source", passage)))
                for passage in event.nearest
                if passage
            }
            console.note(f"nearest passages: {', '.join(sorted(names)[:4])}")


class CodePrinter(_Base):
    """Only the first code block of the answer, or the answer where it has none."""

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Final):
            self.final = event
            block = re.search(r"```[^\n`]*\n(.*?)(?:```|\Z)", event.text, re.DOTALL)
            console.line((block.group(1) if block else event.text).rstrip("\n"))
        elif isinstance(event, Notice) and event.kind == "status":
            console.note(event.text)

    def close(self, *, fail_ungrounded: bool = False) -> int:
        """End the output; returns the exit code."""
        return self._code(fail_ungrounded)


class JsonPrinter(_Base):
    """One JSON object a line; the last one is the answer."""

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Final):
            self.final = event
        console.line(json.dumps(_plain(event), ensure_ascii=False, default=str))

    def close(self, *, fail_ungrounded: bool = False) -> int:
        """End the output; returns the exit code."""
        return self._code(fail_ungrounded)


def _plain(event: Event) -> dict[str, object]:
    values = asdict(event)
    return {"type": values.pop("type"), **values}


__all__ = ["Approval", "CodePrinter", "JsonPrinter", "Printer", "TextPrinter", "printer_for"]
