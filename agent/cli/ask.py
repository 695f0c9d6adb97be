"""`agent ask`: one question, one answer, streamed."""

from __future__ import annotations

import argparse

from agent.cli import console
from agent.cli.options import add_model_options, add_store_options, number, settings_from, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("question", nargs="*", help="the question; text on standard input is put before it")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line; the last one is the answer"
    )
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    parser.add_argument(
        "--fail-ungrounded", action="store_true", help="exit with 3 where the documents do not answer"
    )
    add_store_options(parser)
    documents = parser.add_argument_group("documents asked")
    documents.add_argument(
        "--docs", action="append", default=[], metavar="PATH", help="ingest this file or folder first"
    )
    documents.add_argument("--docs-only", action="store_true", help="answer from the documents or not at all")
    documents.add_argument("--no-docs", action="store_true", help="leave the documents alone")
    documents.add_argument(
        "-k", type=number(1, 50, whole=True), metavar="N", help="passages read for an answer"
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, print, and return the exit code."""
    console.configure(args)
    from agent.cli.printing import printer_for
    from agent.cli.request import prepare, read_request

    request = read_request(words_of(args.question), args)
    console.note("agent: starting …")
    from agent.build import Parts

    with Parts(settings_from(args)) as parts:
        context = prepare(request, parts, args)
        from agent.events import stream_events

        printer = printer_for(json=args.json, stream=not args.no_stream)
        agent = parts.agent(documents=context.docs != "off")
        for event in stream_events(agent, request.inputs, context=context):
            printer.show(event)
    return printer.close(fail_ungrounded=args.fail_ungrounded)
