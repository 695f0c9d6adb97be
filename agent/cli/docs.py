"""`agent docs`: what the document store holds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_store_options, settings_from

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.retrieval.records import SourceRecord


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

    with Parts(settings_from(args)) as parts:
        return ACTIONS[args.action](parts, args)


def _list(parts: Parts, args: argparse.Namespace) -> int:
    sources = parts.store.sources() if parts.settings.store.exists() else []
    if args.json:
        console.line(json.dumps({"documents": [source.as_dict() for source in sources]}, ensure_ascii=False))
    elif not sources:
        console.note(f"no documents in {parts.settings.store}; add some: agent ingest PATH")
    else:
        console.table([_row(source) for source in sources], ["document", "kind", "chunks", "title"])
    return 0


def _remove(parts: Parts, args: argparse.Namespace) -> int:
    from agent.errors import RequestError

    if not args.sources:
        raise RequestError("expected the documents to remove, found none; `agent docs list` names them")
    removed: list[str] = []
    for source in args.sources:
        gone = parts.store.remove(source) if parts.settings.store.exists() else []
        if not gone:
            raise RequestError(
                f"expected a document or folder of the store, found {source!r}; see `agent docs list`"
            )
        removed += gone
    if args.json:
        console.line(json.dumps({"removed": removed}, ensure_ascii=False))
    else:
        for path in removed:
            console.line(f"removed {console.display_path(path)}")
    return 0


def _row(source: SourceRecord) -> dict[str, Any]:
    return {
        "document": console.display_path(source.path),
        "kind": source.kind,
        "chunks": source.chunks,
        "title": source.title,
    }


ACTIONS = {"list": _list, "remove": _remove}
