"""`agent templates`: prompt templates, used with `ask -t NAME`."""

from __future__ import annotations

import argparse
import json
import sys

from agent.cli import console
from agent.cli.options import settings_from, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=["list", "rm", "save", "show"], help="(list)"
    )
    parser.add_argument(
        "words", nargs="*", metavar="NAME [TEXT]", help="save: the name, then the text (or stdin)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the templates."""
    console.configure(args)
    from agent.errors import RequestError
    from agent.storage import templates

    folder = settings_from(args).folders.templates
    if args.action == "list":
        names = templates.list_templates(folder)
        console.line(
            json.dumps({"templates": names}) if args.json else "\n".join(names) or "no templates yet"
        )
        return 0
    if not args.words:
        raise RequestError(
            "expected a template's name, found none; for example: agent templates save tldr 'TL;DR: $input'"
        )
    name = args.words[0]
    if args.action == "save":
        text = words_of(args.words[1:]) or sys.stdin.read()
        path = templates.save_template(folder, name, text)
        gaps = ", ".join(f"${gap}" for gap in templates.gaps_of(text))
        console.line(f"saved {path}; {f'gaps: {gaps}' if gaps else 'no gap ($input) in it: words follow it'}")
        return 0
    text = templates.read_template(folder, name)
    if args.action == "rm":
        templates.template_path(folder, name).unlink()
    console.line(text if args.action == "show" else f"removed {name}")
    return 0
