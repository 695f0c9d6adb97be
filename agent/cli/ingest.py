"""`agent ingest`: read files and folders into the document store."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_store_options, settings_from

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.retrieval import IngestReport


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a folder")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    parser.add_argument(
        "--reembed", action="store_true", help="embed everything again (another embedder or splitter)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_store_options(parser)


def run(args: argparse.Namespace) -> int:
    """Ingest and print the report."""
    console.configure(args)
    console.note("agent: starting …")
    from agent.build import Parts

    parts = Parts(settings_from(args))
    report = ingest_paths(parts, args.paths, dry_run=args.dry_run, reembed=args.reembed)
    if args.json:
        console.line(json.dumps(asdict(report), default=str))
    return 0


def ingest_paths(parts: Parts, paths: list[str], **options: Any) -> IngestReport:
    """Ingest with a progress bar and say on stderr what changed."""
    from agent.folders import private_folder

    private_folder(parts.settings.store)
    with console.progress_bar("ingest") as bar:
        report = parts.store.ingest(
            paths, progress=lambda step: bar(step.done, step.total, step.source), **options
        )
    console.note(describe(report))
    for failure in report.failed:
        console.note(f"not ingested: {failure}")
    return report


def describe(report: IngestReport) -> str:
    """One line that says what an ingest did."""
    changes = {name: len(getattr(report, name)) for name in ("added", "updated", "deleted", "failed")}
    said = [f"{count} {name}" for name, count in changes.items() if count]
    kept = len(report.unchanged)
    if not said:
        return f"documents: {kept} unchanged, nothing to ingest"
    return f"documents: {', '.join(said)}" + (f", {kept} unchanged" if kept else "")
