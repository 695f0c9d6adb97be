"""`agent code`: write code, run it in the sandbox, and say what was seen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_model_options, number, settings_from, words_of

if TYPE_CHECKING:
    from chains import CodeResult


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("request", nargs="+", metavar="TEXT", help="what the code is to do")
    parser.add_argument(
        "--test", action="append", default=[], metavar="EXPR", help='must be true: "f(2) == 4"'
    )
    parser.add_argument("--out", metavar="FILE", help="write the code there; never over a file")
    parser.add_argument("--force", action="store_true", help="let --out write over a file")
    parser.add_argument(
        "--run", action="store_true", help="run the code by itself, too, and print its output"
    )
    parser.add_argument("--lang", choices=["python"], default="python", help="the language (python)")
    parser.add_argument(
        "--repairs", type=number(0, 10, whole=True), default=2, metavar="N", help="repairs (2)"
    )
    parser.add_argument(
        "--candidates", type=number(1, 16, whole=True), default=1, metavar="N", help="versions (1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write, run, print; exit code 4 where the given examples fail."""
    console.configure(args)
    console.note("agent: starting …")
    from pathlib import Path

    from agent import errors as exit_codes
    from agent.build import Parts
    from agent.cli.files import write_new
    from agent.errors import RequestError
    from chains import CodeResult, code_chain

    if args.out and Path(args.out).expanduser().exists() and not args.force:
        raise RequestError(f"expected no file at {args.out!r}, found one; name another, or pass --force")
    with Parts(settings_from(args)) as parts:
        chain = code_chain(
            parts.model, parts.sandbox.run, repairs=int(args.repairs), candidates=int(args.candidates)
        )
        result = CodeResult(code="", status="failed")
        events: Iterator[Any] = chain.stream({"request": words_of(args.request), "examples": args.test})
        for event in events:
            if isinstance(event, CodeResult):
                result = event
            else:
                console.note(f"{event.step}: {console.shorten(event.text, 100)}")
        if args.out and result.code:
            write_new(args.out, result.code, force=args.force)
            console.note(f"written to {args.out}")
        _show(result, args)
        if args.run and result.code:
            ran = parts.sandbox.run(result.code)
            console.out(ran.stdout)
            console.note(f"run: {ran.status} {console.shorten(ran.stderr, 200)}")
    return exit_codes.FAILED_EXAMPLES if result.status == "failed" else exit_codes.DONE


def _show(result: CodeResult, args: argparse.Namespace) -> None:
    if args.json:
        facts = {**asdict(result), "verified": result.verified}
        console.line(json.dumps(facts, ensure_ascii=False, default=str))
        return
    if not args.out:
        console.line(result.code.rstrip())
    console.note(f"status: {result.status}. {result.explanation}")
    for run in result.runs[-1:]:
        for one in run.checks:
            shown = "passed" if one.passed else f"failed: {console.shorten(one.detail, 120)}"
            console.note(f"  {one.check.kind}: {console.shorten(one.check.source, 80)} {shown}")
        if run.stdout.strip():
            console.note(f"it printed: {console.shorten(run.stdout, 500)}")
