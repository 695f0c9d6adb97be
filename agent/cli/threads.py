"""`agent threads`: the conversations kept on this machine."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.cli import console
from agent.cli.options import settings_from

if TYPE_CHECKING:
    from agent.storage.threads import Threads


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument("names", nargs="*", metavar="THREAD", help="a thread's name or how it begins")
    parser.add_argument("--out", metavar="FILE", help="export: write there instead of stdout")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the threads."""
    console.configure(args)
    settings = settings_from(args)
    if args.action == "list" and not settings.folders.threads.exists():
        return _print_list([], args)
    from agent.storage.threads import open_threads

    with open_threads(settings.folders.threads) as threads:
        return ACTIONS[args.action](threads, args)


def _list(threads: Threads, args: argparse.Namespace) -> int:
    return _print_list([asdict(thread) for thread in threads.all()], args)


def _print_list(rows: list[dict[str, object]], args: argparse.Namespace) -> int:
    if args.json:
        console.line(json.dumps({"threads": rows}, ensure_ascii=False))
    elif not rows:
        console.note("no threads yet; begin one: agent chat")
    else:
        shown = [{"thread": r["id"], "used": _when(r["used"]), "title": r["title"]} for r in rows]
        console.table(shown, ["thread", "used", "title"])
    return 0


def _show(threads: Threads, args: argparse.Namespace) -> int:
    for name in _named(args):
        thread = threads.find(name)
        if args.json:
            said = [{"role": m.type, "text": m.text} for m in threads.messages(thread)]
            console.line(json.dumps({**asdict(thread), "messages": said}, ensure_ascii=False))
        else:
            console.line(threads.export(thread))
    return 0


def _export(threads: Threads, args: argparse.Namespace) -> int:
    text = "\n".join(threads.export(threads.find(name)) for name in _named(args))
    if args.out:
        from agent.cli.files import write_new

        write_new(args.out, text)
    else:
        console.line(text)
    return 0


def _remove(threads: Threads, args: argparse.Namespace) -> int:
    for thread in [threads.find(name) for name in _named(args)]:
        threads.remove(thread)
        console.line(f"removed {thread.id} {thread.title}")
    return 0


def _named(args: argparse.Namespace) -> list[str]:
    from agent.errors import RequestError

    if not args.names:
        raise RequestError("expected the name of a thread, found none; `agent threads list` names them")
    return list(args.names)


def _when(moment: object) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(float(str(moment))))


ACTIONS = {"list": _list, "show": _show, "rm": _remove, "export": _export}
