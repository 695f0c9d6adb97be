"""`agent classify`: one text, or a column of a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.files import read_text
from agent.cli.options import add_model_options, number, settings_from, words_of
from agent.errors import RequestError

if TYPE_CHECKING:
    from agent.build import Parts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("text", nargs="*", metavar="TEXT|-", help="the text; - or nothing is standard input")
    parser.add_argument(
        "--labels",
        required=True,
        metavar="A,B,C|@FILE",
        help="labels, each with =description if needed; a file holds one a line, or JSON (nested: groups)",
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
    if bool(args.csv) != bool(args.out):
        raise RequestError("expected --csv and --out together, found one of them; name both tables")
    console.note("agent: starting …")
    from agent.build import Parts

    with Parts(settings_from(args)) as parts:
        return _table(parts, args) if args.csv else _text(parts, args)


def _text(parts: Parts, args: argparse.Namespace) -> int:
    from agent.cli.request import read_stdin

    words = [word for word in args.text if word != "-"]
    with console.progress_bar("windows") as bar:

        def progress(done: int, total: int) -> None:
            bar(console.Step(done=done, total=total))

        found = _chain(parts, args, progress).invoke(words_of(words) or read_stdin())
    if args.json:
        console.line(json.dumps(found.to_dict(), ensure_ascii=False))
        return 0
    names = found.labels if args.multi_label else [found.label or "(none)"]
    probable = found.scores | found.groups
    for name in names:
        console.line(f"{name}  {probable[name]:.2f}" if name in probable else name)
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


def _labels(given: str) -> Any:
    """Labels of the command line, or of a file: JSON as it is, else one label a line."""
    told = given.split(",")
    if given.startswith("@"):
        text = read_text(given[1:])
        if text.lstrip()[:1] in ("{", "["):
            try:
                return json.loads(text)
            except ValueError as error:
                raise RequestError(f"expected JSON in {given[1:]!r}, found {error}; mend it") from error
        told = [line for line in text.splitlines() if line.strip()]
    pairs = [part.partition("=") for part in told]
    if any(separator for _, separator, _ in pairs):
        return {name.strip(): description.strip() for name, _, description in pairs}
    return [name.strip() for name, _, _ in pairs]


def _chain(parts: Parts, args: argparse.Namespace, progress: Callable[[int, int], None] | None = None) -> Any:
    from chains import classify_chain
    from chains.classify.table import read_examples_table

    return classify_chain(
        parts.model,
        _labels(args.labels),
        embeddings=parts.embeddings,
        examples=read_examples_table(Path(args.examples)) if args.examples else None,
        multi_label=args.multi_label,
        abstain_below=args.abstain_below,
        explain=args.explain,
        progress=progress,
    )
