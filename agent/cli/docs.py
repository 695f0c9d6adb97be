"""`agent docs`: what the document store holds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_store_options, settings_from

if TYPE_CHECKING:
    from agent.build import Parts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="a document, as `agent docs list` names it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_store_options(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the store."""
    console.configure(args)
    from agent.build import Parts

    return ACTIONS[args.action](Parts(settings_from(args)), args)


def _list(parts: Parts, args: argparse.Namespace) -> int:
    rows = [_row(source) for source in parts.store.sources()] if parts.settings.store.exists() else []
    if args.json:
        console.line(json.dumps({"documents": rows}, default=str, ensure_ascii=False))
    elif not rows:
        console.note(f"no documents in {parts.settings.store}; add some: agent ingest PATH")
    else:
        console.table(rows, list(rows[0]))
    return 0


def _remove(parts: Parts, args: argparse.Namespace) -> int:
    from agent.errors import RequestError

    if not args.sources:
        raise RequestError("expected the documents to remove, found none; `agent docs list` names them")
    removed = [{"source": source, "chunks": parts.store.remove(source)} for source in args.sources]
    if args.json:
        console.line(json.dumps({"removed": removed}, default=str, ensure_ascii=False))
    else:
        for row in removed:
            console.line(f"removed {row['source']}")
    return 0


def _row(source: Any) -> dict[str, Any]:
    return {"source": source.source, "chunks": source.chunks, "title": source.title}


ACTIONS = {"list": _list, "remove": _remove}
