"""`agent models`: which models there are, and fetching, removing and choosing them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.cli import console
from agent.cli.options import settings_from

if TYPE_CHECKING:
    from llms.registry import Registry


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a model; alias: a new name, then what it stands for"
    )
    parser.add_argument("--revision", metavar="REV", help="pull: branch, tag or commit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the models."""
    console.configure(args)
    from llms.registry import Registry

    folders = settings_from(args).folders
    return ACTIONS[args.action](Registry(folders.cache, folders.config), args)


def _list(registry: Registry, args: argparse.Namespace) -> int:
    rows = registry.rows()
    if args.json:
        console.line(json.dumps({"models": [asdict(row) for row in rows]}, ensure_ascii=False))
        return 0
    shown = [
        {
            "name": row.name,
            "parameters": f"{row.parameters / 1e9:.2f}B" if row.parameters else "",
            "quantization": row.quantization,
            "on disk": _size(row.size),
            "context": row.context,
            "fits": row.fits,
            "default": "yes" if row.default else "",
            "aliases": ", ".join(row.aliases),
        }
        for row in rows
    ]
    console.table(shown, list(shown[0]))
    return 0


def _show(registry: Registry, args: argparse.Namespace) -> int:
    for name in _named(args):
        details = registry.show(name)
        if args.json:
            console.line(json.dumps(asdict(details), ensure_ascii=False, default=str))
            continue
        facts = {
            "name": details.row.name,
            "title": details.row.title,
            "source": f"{details.source.kind} {details.source.location}",
            "folder": details.folder or "not on this machine",
            **details.facts,
            "4-bit checkpoints": len(details.quantized),
            "problem": details.problem or "none",
        }
        for key, value in facts.items():
            console.line(f"{key}: {value}")
    return 0


def _pull(registry: Registry, args: argparse.Namespace) -> int:
    for name in _named(args):
        with console.progress_bar("download") as bar:
            folder = registry.pull(
                name,
                revision=args.revision,
                notify=console.note,
                progress=lambda what, done, total: bar(console.Step(done=done, total=total, text=what)),
            )
        console.line(f"{name} is at {folder}")
    return 0


def _remove(registry: Registry, args: argparse.Namespace) -> int:
    for name in _named(args):
        console.line(f"removed {name}, {_size(registry.remove(name))} freed")
    return 0


def _default(registry: Registry, args: argparse.Namespace) -> int:
    if args.names:
        registry.set_default(args.names[0])
    console.line(registry.default)
    return 0


def _alias(registry: Registry, args: argparse.Namespace) -> int:
    if args.names:
        registry.set_alias(args.names[0], args.names[1] if len(args.names) > 1 else None)
    for name, target in registry.aliases.items():
        console.line(f"{name} = {target}")
    return 0


def _ps(registry: Registry, args: argparse.Namespace) -> int:
    rows = [{**asdict(running), "rss": running.rss} for running in registry.loaded()]
    if args.json:
        console.line(json.dumps({"loaded": rows}, default=str))
    elif not rows:
        console.note("no model is loaded")
    else:
        shown = [{**row, "memory": _size(row["rss"])} for row in rows]
        console.table(shown, ["pid", "name", "device", "quantization", "window", "memory"])
    return 0


def _named(args: argparse.Namespace) -> list[str]:
    from agent.errors import RequestError

    if not args.names:
        raise RequestError("expected the name of a model, found none; `agent models list` names them")
    return list(args.names)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count else "no"


ACTIONS = {
    "alias": _alias,
    "default": _default,
    "list": _list,
    "ps": _ps,
    "pull": _pull,
    "rm": _remove,
    "show": _show,
}
