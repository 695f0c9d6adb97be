"""`agent ingest`: read files and folders into the document store."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_store_options, number, settings_from

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.retrieval import IngestReport, Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a folder")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    parser.add_argument(
        "--reembed", action="store_true", help="embed everything again (another embedder or splitter)"
    )
    parser.add_argument(
        "--precision",
        dest="embedding_precision",
        choices=["float32", "bfloat16"],
        help="arithmetic of the embedder: bfloat16 takes 0.6 of the time on a CPU that multiplies it "
        "(AVX512-BF16, AMX), for nearly the same vectors; a store keeps to what it was made with",
    )
    parser.add_argument("--watch", action="store_true", help="go on with every change until Ctrl-C")
    parser.add_argument("--max-bytes", type=number(1, 10**12, whole=True), metavar="N", help="largest file")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_store_options(parser)


def run(args: argparse.Namespace) -> int:
    """Ingest and print the report."""
    console.configure(args)
    console.note("agent: starting …")
    from agent.build import Parts

    with Parts(settings_from(args)) as parts:
        limit = {"max_file_bytes": int(args.max_bytes)} if args.max_bytes else {}
        if args.watch:
            return _watch(parts, args, limit)
        report = ingest_paths(parts, args.paths, dry_run=args.dry_run, reembed=args.reembed, **limit)
    if args.json:
        console.line(json.dumps(report.as_dict(), ensure_ascii=False))
    return 0


def _watch(parts: Parts, args: argparse.Namespace, limit: dict[str, int]) -> int:
    from agent.folders import private_folder

    private_folder(parts.settings.store)
    parts.store.watch(
        args.paths,
        on_report=lambda report: console.note(describe(report)),
        on_error=lambda error: console.show_error(error, known=True),
        **limit,
    )
    return 0


def ingest_paths(parts: Parts, paths: list[str], **options: Any) -> IngestReport:
    """Ingest with a progress bar and say on stderr what changed; raises where every file failed."""
    from agent.folders import private_folder

    private_folder(parts.settings.store)
    try:
        with console.progress_bar("documents") as bar:
            report = parts.store.ingest(paths, progress=lambda step: bar(_shown(step)), **options)
    except KeyboardInterrupt:
        console.note("interrupted: what was embedded is kept; the same command goes on from there")
        raise
    for failure in report.failed:
        console.note(f"not ingested: {console.display_path(failure.path)}: {failure.reason}")
    report.raise_if_nothing()
    console.note(describe(report))
    return report


def describe(report: IngestReport) -> str:
    """One line that says what an ingest did."""
    if not report.changed and not report.failed:
        skipped = f" ({len(report.skipped)} skipped: empty, or no document)" if report.skipped else ""
        return f"documents: {len(report.unchanged)} unchanged, nothing to ingest{skipped}"
    return f"documents: {report.summary()}"


def _shown(step: Progress) -> console.Step:
    text = f"{step.stage}, {step.chunks} chunks, {step.chunks_per_s:.0f}/s"
    return console.Step(done=step.files_done, total=step.files_total, text=text)
