"""`agent config`: show and set the settings."""

from __future__ import annotations

import argparse
import json

from agent.cli import console
from agent.cli.options import settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        default="show",
        choices=["path", "set", "show", "unset"],
        help="what to do (show)",
    )
    parser.add_argument(
        "words", nargs="*", metavar="NAME VALUE", help="set: a setting and its value; show, unset: settings"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show the settings, or set one."""
    console.configure(args)
    if args.action in ("set", "unset"):
        return _change(args)
    if args.action == "path":  # of a file that cannot be read, too: that one has to be found
        from agent.settings import config_file

        console.line(str(config_file(args.home)))
        return 0
    settings = settings_from(args)
    from agent.settings import known_setting, show_values

    wanted = [known_setting(word) for word in args.words]
    rows = [row for row in show_values(settings) if not wanted or row["setting"] in wanted]
    if args.json:
        console.line(json.dumps({row["setting"]: row["value"] for row in rows}, ensure_ascii=False))
    else:
        console.table(rows, ["setting", "value", "default", "what"])
    return 0


def _change(args: argparse.Namespace) -> int:
    from agent.errors import RequestError
    from agent.settings import config_file, set_value

    path, words = config_file(args.home), args.words
    if args.action == "unset" and words:
        for name in words:
            set_value(path, name, "")
            console.line(f"{name} is back at its default")
        return 0
    if len(words) < 2:
        raise RequestError(
            f"expected a setting and its value, found {' '.join(words)!r}; for example: agent config set k 6"
        )
    name, value = words[0], " ".join(words[1:])
    set_value(path, name, value)
    console.line(f"{name} = {value}" if value else f"{name} is back at its default")
    return 0
