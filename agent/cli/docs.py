"""`agent ingest` and `agent docs`: fill the document store, and look after what it holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import (
    FILE,
    JSON,
    STORE_OPTIONS,
    Args,
    OneOf,
    action,
    flag,
    number,
    option,
    parts_from,
    verb,
    words,
)
from agent.errors import DONE, UNREAD, RequestError

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.retrieval import IngestReport, Progress
    from chains.retrieval.document import SourceRecord


@verb(
    words("paths", metavar="PATH...", type=FILE, required=True, help="a file or a folder"),
    flag("--dry-run", help="say what would change, and change nothing"),
    flag("--reembed", help="embed everything again (another embedder or splitter)"),
    option(
        "--precision",
        "embedding_precision",
        type=OneOf(["float32", "bfloat16"]),
        help="arithmetic of the embedder: bfloat16 takes 0.6 of the time on a CPU that multiplies it "
        "(AVX512-BF16, AMX), for nearly the same vectors; a store keeps to what it was made with",
    ),
    flag("--watch", help="go on with every change until Ctrl-C"),
    option("--max-bytes", type=number(1, 10**12, whole=True), metavar="N", help="largest file"),
    flag("--json", help="print the report as one JSON object"),
    *STORE_OPTIONS,
)
def ingest(args: Args) -> int:
    """Ingest files and folders and print the report."""
    console.note("agent: starting …")

    with parts_from(args) as parts:
        limit = {"max_file_bytes": int(args.max_bytes)} if args.max_bytes else {}
        if args.watch:
            return _watch(parts, args, limit)
        report = ingest_paths(parts, args.paths, dry_run=args.dry_run, reembed=args.reembed, **limit)
    if args.json:
        console.write_json(report.as_dict())
    return UNREAD if report.unread else DONE


def _watch(parts: Parts, args: Args, limit: dict[str, Any]) -> int:
    from agent.folders import private_folder

    private_folder(parts.settings.store)
    parts.store.watch(
        args.paths,
        on_report=_told,
        on_error=lambda error: console.show_error(error, known=True),
        **limit,
    )
    return 0


def _told(report: IngestReport) -> None:
    for line in lines_of_files(report):
        console.note(line)
    console.note(describe(report))


def ingest_paths(parts: Parts, paths: list[str], **options: Any) -> IngestReport:
    """Ingest with a progress bar and report on stderr what changed; raises if every file failed."""
    from agent.folders import private_folder

    private_folder(parts.settings.store)
    try:
        with console.progress_bar("documents") as bar:
            report = parts.store.ingest(paths, progress=lambda step: bar(_step(step)), **options)
    except KeyboardInterrupt:
        console.note("interrupted: what was embedded is kept; the same command goes on from there")
        raise
    for line in lines_of_files(report):
        console.note(line)
    report.raise_if_nothing()
    console.note(describe(report))
    return report


def lines_of_files(report: IngestReport) -> list[str]:
    """Return one line for each file that was not read, or only in part, and for each that has a note."""
    return [
        *(f"{console.display_path(path)}: {note}" for path, note in report.notes),
        *_unread_lines(report),
    ]


def _unread_lines(report: IngestReport) -> list[str]:
    return [
        f"{'read in part' if one.partly else 'not read'}: {console.display_path(one.path)}: "
        f"{console.as_typed(one.reason)}"
        for one in report.unread
    ]


def describe(report: IngestReport) -> str:
    """Return one line that says what an ingest did."""
    if not report.changed and not report.unread:
        empty = f" ({len(report.skipped)} skipped: empty)" if report.skipped else ""
        return f"documents: {len(report.unchanged)} unchanged, nothing to ingest{empty}"
    return f"documents: {report.summary()}"


def _step(step: Progress) -> console.Step:
    text = f"{step.stage}, {step.chunks} chunks, {step.chunks_per_s:.0f}/s"
    return console.Step(done=step.files_done, total=step.files_total, text=text)


@verb(
    action("export", "list", "remove", "show", "stats", "verify", default="list"),
    words("sources", metavar="[SOURCE]...", type=FILE, help="a document, as `agent docs list` names it"),
    flag("--repair", help="verify: mend what can be mended"),
    JSON,
    *STORE_OPTIONS,
)
def docs(args: Args) -> int:
    """Carry out one action on the store."""
    actions = {
        "export": _export,
        "list": _list,
        "remove": _remove,
        "show": _show,
        "stats": _stats,
        "verify": _verify,
    }
    with parts_from(args) as parts:
        return actions[args.action](parts, args)


def _list(parts: Parts, args: Args) -> int:
    sources = parts.store.sources() if parts.settings.store.exists() else []
    if args.json:
        console.write_json({"documents": [source.as_dict() for source in sources]})
    elif not sources:
        console.note(f"no documents in {parts.settings.store}; add some: agent ingest PATH")
    else:
        columns = ["document", "kind", "chunks", "title"]
        columns += ["read"] if any(source.partly for source in sources) else []
        console.table([_row(source) for source in sources], columns)
        console.note(f"embedder: {parts.store.embedder}")
    return 0


def _remove(parts: Parts, args: Args) -> int:
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
        console.write_json({"removed": removed})
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
        "read": "in part" if source.partly else "whole",
    }


def _show(parts: Parts, args: Args) -> int:
    for record in _found(parts, args):
        if args.json:
            text = parts.store.text(record.path)
            console.write_json({**record.as_dict(), "text": text})
        else:
            console.line(f"# {console.display_path(record.path)} ({record.kind}, {record.chunks} chunks)")
            if record.partly:
                console.line(f"# read in part: {record.partly}")
            console.line(parts.store.text(record.path))
    return 0


def _verify(parts: Parts, args: Args) -> int:
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
        console.write_json(report.as_dict())
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


def _stats(parts: Parts, args: Args) -> int:
    _require_store(parts)
    stats = parts.store.stats()
    if args.json:
        console.write_json(stats)
    else:
        for name, value in stats.items():
            console.line(f"{name}: {value}")
    return 0


def _export(parts: Parts, args: Args) -> int:
    _require_store(parts)
    for row in parts.store.export():
        console.write_json(row)
    return 0


def _found(parts: Parts, args: Args) -> list[SourceRecord]:
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
    """Raise RequestError if there is no store, because looking at one must not make it."""
    if not parts.settings.store.exists():
        raise RequestError(
            f"expected a store at {str(parts.settings.store)!r}, found none; agent ingest PATH makes it"
        )
