"""`agent logs`: the log of questions and answers."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.cli import console
from agent.cli.options import settings_from

if TYPE_CHECKING:
    from agent.settings import Settings
    from agent.storage.logs import Entry


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument("words", nargs="*", help="search: words; show, rm: entry numbers, or `all`")
    parser.add_argument("-n", dest="count", type=int, default=20, help="how many entries (20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the log."""
    console.configure(args)
    return ACTIONS[args.action](settings_from(args), args)


def _list(settings: Settings, args: argparse.Namespace) -> int:
    from agent.storage.logs import open_logs

    if not settings.folders.logs.exists():
        return _print([], args)
    with open_logs(settings.folders.logs) as logs:
        return _print(logs.newest(args.count, " ".join(args.words)), args)


def _show(settings: Settings, args: argparse.Namespace) -> int:
    from agent.storage.logs import open_logs

    with open_logs(settings.folders.logs) as logs:
        for number in _numbers(args.words):
            entry = logs.get(number)
            if entry is None:
                raise _unknown(str(number))
            if args.json:
                console.line(json.dumps(asdict(entry), ensure_ascii=False))
            else:
                console.line(
                    f"#{entry.id} {_when(entry)} {entry.model or ''}\n\n{entry.question}\n\n{entry.answer}\n"
                )
    return 0


def _remove(settings: Settings, args: argparse.Namespace) -> int:
    from agent.storage.logs import open_logs

    with open_logs(settings.folders.logs) as logs:
        if args.words == ["all"]:
            console.line(f"removed {logs.remove()}")
            return 0
        for number in _numbers(args.words):
            if not logs.remove(number):
                raise _unknown(str(number))
            console.line(f"removed #{number}")
    return 0


def _switch(settings: Settings, args: argparse.Namespace) -> int:
    from agent.settings import set_value

    set_value(settings.folders.config_file, "logging", str(args.action == "on").lower())
    console.line(f"logging is {args.action}")
    return 0


def _print(entries: list[Entry], args: argparse.Namespace) -> int:
    if args.json:
        console.line(json.dumps({"logs": [asdict(entry) for entry in entries]}, ensure_ascii=False))
    elif not entries:
        console.note("nothing in the log")
    else:
        rows = [
            {
                "#": e.id,
                "when": _when(e),
                "question": console.shorten(e.question, 60),
                "answer": console.shorten(e.answer, 60),
            }
            for e in entries
        ]
        console.table(rows, ["#", "when", "question", "answer"])
    return 0


def _numbers(words: list[str]) -> list[int]:
    if not words:
        raise _unknown("")
    for word in words:
        if not word.lstrip("#").isdigit():
            raise _unknown(word)
    return [int(word.lstrip("#")) for word in words]


def _unknown(word: str) -> Exception:
    from agent.errors import RequestError

    return RequestError(f"expected the number of a log entry, found {word!r}; `agent logs list` numbers them")


def _when(entry: Entry) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time))


ACTIONS = {"list": _list, "search": _list, "show": _show, "rm": _remove, "on": _switch, "off": _switch}
