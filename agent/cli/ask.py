"""`agent ask`: one question, one answer, streamed."""

from __future__ import annotations

import argparse

from agent.cli import console
from agent.cli.options import add_model_options, add_store_options, filter_from, number, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("question", nargs="*", help="the question; text on standard input is put before it")
    parser.add_argument(
        "-c", "--continue", dest="continued", action="store_true", help="go on in the last thread"
    )
    parser.add_argument("--thread", metavar="NAME", help="go on in this thread")
    parser.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE", help="put a text file before it"
    )
    parser.add_argument("-t", "--template", metavar="NAME", help="fill this template with the question")
    parser.add_argument("-p", dest="values", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a value for a gap of the template")  # fmt: skip
    _add_output_options(parser)
    add_store_options(parser)
    add_documents_options(parser)
    add_tool_options(parser)
    add_model_options(parser)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="one JSON object a line; the last one is the answer"
    )
    group.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    group.add_argument(
        "-x", "--extract", action="store_true", help="print the answer's first code block only"
    )
    group.add_argument(
        "--fail-ungrounded", action="store_true", help="exit with 3 where the documents do not answer"
    )
    group.add_argument("--trace", action="store_true", help="print the steps with times and tokens")
    group.add_argument("--verbose", action="store_true", help="print model, device, times, tokens and memory")
    group.add_argument("--no-log", action="store_true", help="keep neither a thread nor a log entry")


def add_documents_options(parser: argparse.ArgumentParser) -> None:
    """Which documents are asked, and how."""
    group = parser.add_argument_group("documents asked")
    group.add_argument(
        "--docs", action="append", default=[], metavar="PATH", help="ingest this file or folder first"
    )
    group.add_argument("--docs-only", action="store_true", help="answer from the documents or not at all")
    group.add_argument("--no-docs", action="store_true", help="leave the documents alone")
    group.add_argument("-k", type=number(1, 50, whole=True), metavar="N", help="passages read for an answer")
    group.add_argument("--filter", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"),
                       help="only documents whose field has this value, or one of several")  # fmt: skip
    group.add_argument("--show-context", action="store_true", help="print the passages that were found")


def add_tool_options(parser: argparse.ArgumentParser) -> None:
    """Which tools may act."""
    group = parser.add_argument_group("tools")
    group.add_argument(
        "--tools", dest="tools", action="store_true", default=True, help="offer the tools (default)"
    )
    group.add_argument("--no-tools", dest="tools", action="store_false", help="offer no tools")
    group.add_argument(
        "--td", dest="tool_debug", action="store_true", help="show the route, tool calls and results"
    )
    group.add_argument(
        "--approve", choices=["ask", "deny", "never-ask"], help="what becomes of tools that act"
    )
    group.add_argument(
        "--planner", choices=["auto", "routed", "free"], help="who plans: the router or the model"
    )
    group.add_argument("--files", action="append", metavar="DIR", help="a folder that read_file may read")


def run(args: argparse.Namespace) -> int:
    """Ask, print, and return the exit code."""
    console.configure(args)
    from agent.cli.printing import printer_for
    from agent.cli.request import prepare, read_request

    request = read_request(args)
    console.note("agent: starting …")
    from agent.build import Parts

    with Parts(settings_from(args), search_filter=filter_from(args)) as parts:
        context = prepare(request, parts, args)
        from agent.cli.report import report_passages, report_run
        from agent.cli.session import Session
        from agent.trace import Trace

        trace = Trace()
        printer = printer_for(args)
        with Session(parts, context, keep=not args.no_log, trace=trace) as session:
            if args.continued or args.thread:
                session.continue_last(args.thread)
            if args.show_context:
                report_passages(parts, request.question)
            session.turn(request.inputs, request.question, printer)
        report_run(parts, trace, args)
    return printer.close(fail_ungrounded=args.fail_ungrounded)
