"""`agent classify`: one text, or a column of a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_model_options, number, settings_from, words_of

if TYPE_CHECKING:
    from agent.build import Parts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("text", nargs="*", metavar="TEXT|-", help="the text; - or nothing is standard input")
    parser.add_argument(
        "--labels", required=True, metavar="A,B,C", help="labels, each with =description if needed"
    )
    parser.add_argument("--examples", metavar="FILE.csv", help="labelled examples: columns text and label")
    parser.add_argument("--csv", metavar="IN.csv", help="classify a column of this table")
    parser.add_argument("--column", default="text", metavar="NAME", help="the column (text)")
    parser.add_argument(
        "--out", metavar="OUT.csv", help="the table with labels; a run that stopped goes on there"
    )
    parser.add_argument("--multi-label", action="store_true", help="every label that applies")
    parser.add_argument(
        "--abstain-below", type=number(0, 1), default=0.0, metavar="P", help="no label below this"
    )
    parser.add_argument("--explain", action="store_true", help="name the sentence that speaks most for it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Classify and print."""
    console.configure(args)
    from agent.errors import RequestError

    if bool(args.csv) != bool(args.out):
        raise RequestError("expected --csv and --out together, found one of them; name both tables")
    console.note("agent: starting …")
    from agent.build import Parts

    with Parts(settings_from(args)) as parts:
        return _table(parts, args) if args.csv else _text(parts, args)


def _text(parts: Parts, args: argparse.Namespace) -> int:
    from agent.cli.request import read_stdin

    words = [word for word in args.text if word != "-"]
    found = _chain(parts, args).invoke(words_of(words) or read_stdin())
    if args.json:
        console.line(json.dumps(found.to_dict(), ensure_ascii=False))
        return 0
    names = found.labels if args.multi_label else [found.label or "(none)"]
    for name in names:
        shown = f"  {found.scores[name]:.2f}" if name in found.scores else ""
        console.line(f"{name}{shown}")
    if found.evidence:
        console.line(f"because: {found.evidence}")
    return 0


def _table(parts: Parts, args: argparse.Namespace) -> int:
    from chains.classify.table import classify_table

    with console.progress_bar("rows") as bar:
        report = classify_table(
            _chain(parts, args),
            Path(args.csv),
            Path(args.out),
            column=args.column,
            progress=lambda done, total: bar(console.Step(done=done, total=total)),
        )
    if args.json:
        console.line(json.dumps(vars(report), default=str))
    else:
        console.line(
            f"{report.rows} rows in {args.out}, {report.resumed} done before, {report.skipped} without text"
        )
    return 0


def _chain(parts: Parts, args: argparse.Namespace) -> Any:
    from chains import classify_chain
    from chains.classify.table import read_examples_table

    pairs = [part.partition("=") for part in args.labels.split(",")]
    described = any(separator for _, separator, _ in pairs)
    labels: Any = (
        {n.strip(): d.strip() for n, _, d in pairs} if described else [n.strip() for n, _, _ in pairs]
    )
    return classify_chain(
        parts.model,
        labels,
        embeddings=parts.embeddings,
        examples=read_examples_table(Path(args.examples)) if args.examples else None,
        multi_label=args.multi_label,
        abstain_below=args.abstain_below,
        explain=args.explain,
    )
