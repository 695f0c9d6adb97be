"""`agent docs`: what the document store holds."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_store_options, settings_from

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.retrieval.document import SourceRecord


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="a document, as `agent docs list` names it"
    )
    parser.add_argument("--repair", action="store_true", help="verify: mend what can be mended")
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


def _show(parts: Parts, args: argparse.Namespace) -> int:
    for record in _found(parts, args):
        if args.json:
            text = parts.store.text(record.path)
            console.line(json.dumps({**record.as_dict(), "text": text}, ensure_ascii=False))
        else:
            console.line(f"# {console.display_path(record.path)} ({record.kind}, {record.chunks} chunks)")
            console.line(parts.store.text(record.path))
    return 0


def _verify(parts: Parts, args: argparse.Namespace) -> int:
    from chains.retrieval import DocumentStore
    from chains.retrieval.errors import StoreDamaged

    _require_store(parts)
    try:
        report = parts.store.verify(repair=args.repair)
    except StoreDamaged:
        if not args.repair:
            raise
        report = DocumentStore.repair(parts.settings.store, chroma=parts.settings.chroma)
    if args.json:
        console.line(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        for problem in report.problems:
            state = "repaired" if problem in report.repaired else "found"
            console.line(f"{state}: {problem}")
        for path in report.lost:
            console.line(f"lost, ingest it again: {console.display_path(path)}")
        console.line(
            f"{'ok' if report.ok else 'not ok'}: {report.documents} documents, {report.chunks} chunks"
        )
    return 0 if report.ok else 1


def _stats(parts: Parts, args: argparse.Namespace) -> int:
    _require_store(parts)
    stats = parts.store.stats()
    if args.json:
        console.line(json.dumps(stats, ensure_ascii=False, default=str))
    else:
        for name, value in stats.items():
            console.line(f"{name}: {value}")
    return 0


def _export(parts: Parts, args: argparse.Namespace) -> int:
    _require_store(parts)
    for row in parts.store.export():
        console.line(json.dumps(row, ensure_ascii=False, default=str))
    return 0


def _found(parts: Parts, args: argparse.Namespace) -> list[SourceRecord]:
    from agent.errors import RequestError

    _require_store(parts)
    by_path = {record.path: record for record in parts.store.sources()}
    found: list[SourceRecord] = []
    for name in args.sources:
        record = by_path.get(name) or by_path.get(os.path.realpath(name))
        if record is None:
            raise RequestError(f"expected a document of the store, found {name!r}; see `agent docs list`")
        found.append(record)
    if not found:
        raise RequestError("expected the documents to show, found none; `agent docs list` names them")
    return found


def _require_store(parts: Parts) -> None:
    """Looking at a store makes none."""
    from agent.errors import RequestError

    if not parts.settings.store.exists():
        raise RequestError(
            f"expected a store at {str(parts.settings.store)!r}, found none; agent ingest PATH makes it"
        )


ACTIONS = {
    "export": _export,
    "list": _list,
    "remove": _remove,
    "show": _show,
    "stats": _stats,
    "verify": _verify,
}
