"""How a turn is shown: its events as streamed text, as the first code block or as NDJSON, and its figures."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from agent.cli import console
from agent.cli.markdown import Markdown
from agent.turn.events import AnswerLabel, Delta, Event, Final, Notice, ToolCall, ToolResult

if TYPE_CHECKING:
    from agent.build import Parts
    from agent.cli.options import Args
    from agent.trace import Trace
    from llms.runtime import Runtime


class Printer(Protocol):
    """Shows events as they come."""

    def show(self, event: Event) -> None:
        """Show one event."""


def printer_for(args: Args) -> Printer:
    """Return the printer that the options ask for."""
    if args.json:
        return JsonPrinter()
    if args.extract:
        return CodePrinter()
    return TextPrinter(stream=not args.no_stream, tool_debug=args.tool_debug)


class TextPrinter:
    """Writes the answer and its sources to stdout, and everything else to stderr."""

    def __init__(self, *, stream: bool = True, tool_debug: bool = False) -> None:
        self._stream = stream
        self._tool_debug = tool_debug
        self._written = ""
        width = console.styled_width()
        self._markdown = Markdown(width) if width is not None else None

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, AnswerLabel):
            self._write(event.text + "\n")
        elif isinstance(event, Delta):
            self._write(event.text)
        elif isinstance(event, Notice):
            if event.kind in ("status", "denied") or self._tool_debug:
                self._break_line()
                console.note(_notice(event))
        elif isinstance(event, ToolCall | ToolResult):
            self._show_tool(event)
        elif isinstance(event, Final):
            self._finish(event)

    def _write(self, text: str) -> None:
        if self._stream:
            self._show_text(text)
            self._written += text

    def _show_text(self, text: str) -> None:
        """Show a piece of the answer, styled if stdout is a terminal."""
        if self._markdown is None:
            console.out(text)
        else:
            console.raw(self._markdown.feed(console.printable(text)))

    def _break_line(self) -> None:
        """End the line of an unfinished answer, so that a notice does not continue it on a terminal."""
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
        if not self._stream:
            label = f"{event.label}\n" if event.label else ""
            self._show_text(label + event.text)
        elif event.text.rstrip()[-20:] not in self._written:
            self._show_text(event.text)  # An answer that a middleware gives is never streamed.
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


class CodePrinter:
    """Writes only the first code block of the answer, or the whole answer if it has none."""

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Final):
            block = re.search(r"```[^\n`]*\n(.*?)(?:```|\Z)", event.text, re.DOTALL)
            console.line((block.group(1) if block else event.text).rstrip("\n"))
        elif isinstance(event, Notice) and event.kind in ("status", "denied"):
            console.note(_notice(event))


class JsonPrinter:
    """Writes each event as a JSON object on a line of its own; the last one is the answer."""

    def show(self, event: Event) -> None:
        """Show one event."""
        values = asdict(event)
        values = {"type": values.pop("type"), **values}
        if isinstance(event, Notice):
            values["text"] = _notice(event)
        console.write_json(values)


def _notice(event: Notice) -> str:
    """Return the text of a notice; a status comes from a library and may name arguments and calls."""
    if event.kind == "denied":
        return f"not done, and nobody can be asked here (use a terminal, or --approve ask):\n{event.text}"
    return console.as_typed(event.text) if event.kind == "status" else event.text


def report_passages(parts: Parts, question: str) -> None:
    """Print the passages that the documents have for a question to stderr."""
    if not parts.has_documents():
        console.say("no documents to show")
        return
    found = parts.retriever.invoke(question)
    if not found:
        console.say("no passages were found")
    for number, document in enumerate(found, 1):
        score = document.metadata.get("score")
        shown = f" ({score:.2f})" if isinstance(score, float) else ""
        console.say(f"passage {number}: {console.place(document.metadata)}{shown}")
        console.say(f"  {console.shorten(document.page_content, 400)}")


def report_run(parts: Parts, trace: Trace, args: Args) -> None:
    """Print what --trace and --verbose ask for to stderr."""
    if args.trace:
        for row in console.aligned(
            trace.rows(), ["at ms", "step", "name", "ms", "first ms", "in", "out", "error"]
        ):
            console.say(row)
    if args.verbose:
        _report_model(parts)
        _report_work(trace, parts)


def _report_model(parts: Parts) -> None:
    """Print which model was loaded, where, and how long that took; loads none to say so."""
    runtime = parts.local_model.loaded_runtime()
    if runtime is None:
        console.say("model not loaded: the answer needed none")
        return
    loaded, dtype = runtime.loaded, str(runtime.loaded.dtype).removeprefix("torch.")
    console.say(
        f"model {loaded.name}, quantization {loaded.quantization}, {dtype}, on {loaded.device}, "
        f"window {loaded.window} tokens, loaded in {loaded.load_s:.1f} s"
    )
    console.say(f"decoder {runtime.engine.decoder.describe()}")


def _report_work(trace: Trace, parts: Parts) -> None:
    """Print the number of tokens, their speed, and the memory of the process.

    The speed is compared with what the memory's bandwidth allows, if the decoder can tell.
    """
    import psutil

    models = [step for step in trace.steps if step.kind == "model"]
    tokens, seconds = sum(s.output_tokens for s in models), sum(s.seconds or 0 for s in models)
    speed = f"{tokens / seconds:.1f} tokens/s" if seconds else "no tokens"
    runtime = parts.local_model.loaded_runtime()
    ceiling = getattr(runtime.engine.decoder, "ceiling", None) if runtime else None
    if ceiling and seconds:
        speed += f", {tokens / seconds / ceiling:.0%} of what the memory's bandwidth allows one sequence"
    memory = psutil.Process().memory_info().rss / 2**20
    console.say(f"prompt {sum(s.input_tokens for s in models)} tokens, decoded {tokens} tokens, {speed}")
    console.say(f"memory {memory:.0f} MiB{_gpu_memory(runtime)}")


def _gpu_memory(runtime: Runtime | None) -> str:
    if runtime is None or runtime.loaded.device.type != "cuda":
        return ""
    import torch

    return f", on the GPU {torch.cuda.max_memory_reserved(runtime.loaded.device) / 2**20:.0f} MiB"
