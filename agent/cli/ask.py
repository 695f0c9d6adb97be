"""`agent ask` and `agent chat`: one question, or a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from agent.cli import console
from agent.cli.options import (
    Args,
    Decorator,
    FileName,
    OneOf,
    completed_from,
    filter_from,
    model_options,
    number,
    option,
    settings_from,
    store_options,
    template_names,
    together,
    verb,
    words,
    words_of,
)


def _output(*names: str, **attributes: Any) -> Decorator[Any]:
    return option(*names, section="output", **attributes)


def _documents(*names: str, **attributes: Any) -> Decorator[Any]:
    return option(*names, section="documents asked", **attributes)


def _tools(*names: str, **attributes: Any) -> Decorator[Any]:
    return option(*names, section="tools", **attributes)


thread_options = together(
    option("-c", "--continue", "continued", is_flag=True, help="go on in the last thread"),
    option("--thread", metavar="NAME", help="go on in this thread"),
)

output_options = together(
    _output("--json", is_flag=True, help="one JSON object a line; the last one is the answer"),
    _output("--no-stream", is_flag=True, help="print the answer when it is complete"),
    _output("-x", "--extract", is_flag=True, help="print the answer's first code block only"),
    _output("--fail-ungrounded", is_flag=True, help="exit with 3 if the documents do not answer"),
    _output("--trace", is_flag=True, help="print the steps with times and tokens"),
    _output("--verbose", is_flag=True, help="print model, device, times, tokens and memory"),
    _output("--no-log", is_flag=True, help="keep neither a thread nor a log entry"),
)

documents_options = together(
    _documents("--docs", multiple=True, type=FileName(), metavar="PATH",
               help="ingest this file or folder first"),
    _documents("--docs-only", is_flag=True, help="answer from the documents or not at all"),
    _documents("--no-docs", is_flag=True, help="leave the documents alone"),
    _documents("-k", type=number(1, 50, whole=True), metavar="N", help="passages read for an answer"),
    _documents("--filter", nargs=2, multiple=True, metavar="FIELD VALUE",
               help="only documents whose field has this value, or one of several"),
    _documents("--show-context", is_flag=True, help="print the passages that were found"),
)  # fmt: skip

tools_options = together(
    _tools("--tools/--no-tools", default=True, help="offer the tools (default), or none"),
    _tools("--td", "tool_debug", is_flag=True, help="show the route, tool calls and results"),
    _tools("--approve", type=OneOf(["ask", "deny", "never-ask"]), help="what becomes of tools that act"),
    _tools("--planner", type=OneOf(["auto", "routed", "free"]), help="who plans: the router or the model"),
    _tools("--files", multiple=True, type=FileName(), metavar="DIR", help="a folder that read_file may read"),
)


@verb
@words("question", metavar="[QUESTION]...", help="the question; text on standard input is put before it")
@thread_options
@option("-f", "--file", multiple=True, type=FileName(), metavar="FILE", help="put a text file before it")
@option(
    "-t",
    "--template",
    metavar="NAME",
    shell_complete=completed_from(template_names),
    help="fill this template with the question",
)
@option(
    "-p", "values", nargs=2, multiple=True, metavar="NAME VALUE", help="a value for a gap of the template"
)
@output_options
@store_options
@documents_options
@tools_options
@model_options
def ask(args: Args) -> int:
    """Ask one question and stream the answer."""
    from agent.cli.request import context_for, read_question

    request = read_question(args)
    console.note("agent: starting …")
    from agent import errors
    from agent.build import Parts

    with Parts(settings_from(args), search_filter=filter_from(args)) as parts:
        context = context_for(parts, args, piped=bool(request.piped))
        from agent.cli.printing import printer_for, report_passages, report_run
        from agent.cli.session import Session
        from agent.trace import Trace

        trace = Trace()
        with Session(parts, context, keep=not args.no_log, trace=trace) as session:
            if args.continued or args.thread:
                session.continue_last(args.thread)
            if args.show_context:
                report_passages(parts, request.question)
            answer = session.turn(request.inputs, request.question, printer_for(args))
        report_run(parts, trace, args)
    grounded = answer is not None and answer.grounded
    return errors.UNGROUNDED if args.fail_ungrounded and not grounded else errors.DONE


@verb
@words("question", metavar="[QUESTION]...", help="a first question")
@thread_options
@option("--tokens", is_flag=True, help="show token counts after each answer")
@option("--no-log", is_flag=True, help="keep neither the thread nor log entries")
@store_options
@documents_options
@tools_options
@model_options
def chat(args: Args) -> int:
    """Talk until /bye or the end of the input."""
    console.note("agent: starting …")
    from agent.build import Parts
    from agent.cli.repl import Repl
    from agent.cli.request import context_for

    with Parts(settings_from(args), search_filter=filter_from(args)) as parts:
        context = context_for(parts, args, piped=False)
        with Repl(parts, context, args) as repl:
            if args.continued or args.thread:
                repl.resume(args.thread)
            if args.question:
                repl.handle(words_of(args.question))
            repl.loop(sys.stdin)
    return 0
