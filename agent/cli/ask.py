"""`agent ask` and `agent chat`: one question, or a conversation in the terminal."""

from __future__ import annotations

import sys

from agent.cli import console
from agent.cli.options import (
    FILE,
    MODEL_OPTIONS,
    STORE_OPTIONS,
    Args,
    OneOf,
    completed_from,
    filter_from,
    flag,
    number,
    option,
    parts_from,
    section,
    template_names,
    verb,
    words,
    words_of,
)

THREAD_OPTIONS = (
    flag("-c", "--continue", "continued", help="go on in the last thread"),
    option("--thread", metavar="NAME", help="go on in this thread"),
)

OUTPUT_OPTIONS = section(
    "output",
    flag("--json", help="one JSON object a line; the last one is the answer"),
    flag("--no-stream", help="print the answer when it is complete"),
    flag("-x", "--extract", help="print the answer's first code block only"),
    flag("--fail-ungrounded", help="exit with 3 if the documents do not answer"),
    flag("--trace", help="print the steps with times and tokens"),
    flag("--verbose", help="print model, device, times, tokens and memory"),
    flag("--no-log", help="keep neither a thread nor a log entry"),
)

DOCUMENT_OPTIONS = section(
    "documents asked",
    option("--docs", multiple=True, type=FILE, metavar="PATH", help="ingest this file or folder first"),
    flag("--docs-only", help="answer from the documents or not at all"),
    flag("--no-docs", help="leave the documents alone"),
    option("-k", type=number(1, 50, whole=True), metavar="N", help="passages read for an answer"),
    option(
        "--filter",
        nargs=2,
        multiple=True,
        metavar="FIELD VALUE",
        help="only documents with this value, or one of several",
    ),
    flag("--show-context", help="print the passages that were found"),
)

TOOL_OPTIONS = section(
    "tools",
    flag("--tools/--no-tools", default=True, help="offer the tools (default), or none"),
    flag("--td", "tool_debug", help="show the route, tool calls and results"),
    option("--approve", type=OneOf(["ask", "deny", "never-ask"]), help="what becomes of tools that act"),
    option("--planner", type=OneOf(["auto", "routed", "free"]), help="who plans: the router or the model"),
    option("--files", multiple=True, type=FILE, metavar="DIR", help="a folder that read_file may read"),
)


@verb(
    words("question", metavar="[QUESTION]...", help="the question; text on standard input is put before it"),
    *THREAD_OPTIONS,
    option("-f", "--file", multiple=True, type=FILE, metavar="FILE", help="put a file or document before it"),
    option(
        "-t",
        "--template",
        metavar="NAME",
        shell_complete=completed_from(template_names),
        help="fill this template with the question",
    ),
    option(
        "-p", "values", nargs=2, multiple=True, metavar="NAME VALUE", help="a value for a gap of the template"
    ),
    *OUTPUT_OPTIONS,
    *STORE_OPTIONS,
    *DOCUMENT_OPTIONS,
    *TOOL_OPTIONS,
    *MODEL_OPTIONS,
)
def ask(args: Args) -> int:
    """Ask one question and stream the answer."""
    from agent.cli.request import context_for, read_question

    request = read_question(args)
    console.note("agent: starting …")
    from agent import errors

    with parts_from(args, search_filter=filter_from(args)) as parts:
        context = context_for(parts, args, piped=bool(request.question and request.piped))
        from agent.cli.printing import printer_for, report_passages, report_run
        from agent.cli.session import Session
        from agent.trace import Trace

        trace = Trace()
        with Session(parts, context, keep=not args.no_log, trace=trace) as session:
            if args.continued or args.thread:
                session.continue_last(args.thread)
            if args.show_context:
                report_passages(parts, request.text)
            answer = session.turn([request.message], printer_for(args))
        report_run(parts, trace, args)
    if answer is not None and answer.failed:
        return errors.FAILED_TOOL
    grounded = answer is not None and answer.grounded
    return errors.UNGROUNDED if args.fail_ungrounded and not grounded else errors.DONE


@verb(
    words("question", metavar="[QUESTION]...", help="a first question"),
    *THREAD_OPTIONS,
    flag("--tokens", help="show token counts after each answer"),
    flag("--no-log", help="keep neither the thread nor log entries"),
    *STORE_OPTIONS,
    *DOCUMENT_OPTIONS,
    *TOOL_OPTIONS,
    *MODEL_OPTIONS,
)
def chat(args: Args) -> int:
    """Talk until /bye or the end of the input."""
    console.note("agent: starting …")
    from agent.cli.repl import Repl
    from agent.cli.request import context_for

    with parts_from(args, search_filter=filter_from(args)) as parts:
        context = context_for(parts, args, piped=False)
        with Repl(parts, context, args) as repl:
            if args.continued or args.thread:
                repl.resume(args.thread)
            if args.question:
                repl.handle(words_of(args.question))
            repl.loop(sys.stdin)
    return 0
