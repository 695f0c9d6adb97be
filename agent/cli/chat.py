"""`agent chat`: a conversation in the terminal, kept as a thread."""

from __future__ import annotations

import argparse
import sys

from agent.cli import console
from agent.cli.ask import add_documents_options, add_tool_options
from agent.cli.options import add_model_options, add_store_options, filter_from, settings_from, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("question", nargs="*", help="a first question")
    parser.add_argument(
        "-c", "--continue", dest="continued", action="store_true", help="go on in the last thread"
    )
    parser.add_argument("--thread", metavar="NAME", help="go on in this thread")
    parser.add_argument("--tokens", action="store_true", help="show token counts after each answer")
    parser.add_argument("--no-log", action="store_true", help="keep neither the thread nor log entries")
    add_store_options(parser)
    add_documents_options(parser)
    add_tool_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until /bye or the end of the input."""
    console.configure(args)
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
