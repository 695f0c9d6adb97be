"""`agent complete`: continue a text or code, or fill the gap before a suffix."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from agent.cli import console
from agent.cli.options import add_model_options, number, settings_from, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("prefix", nargs="*", metavar="TEXT|-", help="what to continue; - or nothing is stdin")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="what stands behind the gap")
    parser.add_argument("--code", action="store_true", help="code: stops at the end of the block or function")
    parser.add_argument("--lang", default="python", help="the language of the code (python)")
    parser.add_argument("--single-line", action="store_true", help="stop at the end of the line")
    parser.add_argument("-n", type=number(1, 16, whole=True), default=1, help="candidates, best first (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object with the candidates")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Complete and print the completion alone."""
    console.configure(args)
    from agent.cli.request import read_stdin
    from agent.errors import RequestError

    words = [word for word in args.prefix if word != "-"]
    prefix = words_of(words) or read_stdin()
    if not prefix and not args.suffix:
        raise RequestError("expected something to continue, found nothing; pass it, or pipe it in")
    console.note("agent: starting …")
    from agent.build import Parts
    from chains import complete_chain

    with Parts(settings_from(args)) as parts:
        chain = complete_chain(
            parts.completion_model,
            kind="code" if args.code else "text",
            language=args.lang,
            n=int(args.n),
            single_line=args.single_line,
            max_tokens=min(parts.settings.max_tokens, 256),
        )
        gap = {"prefix": prefix, "suffix": args.suffix}
        if args.json or args.n > 1:
            candidates = chain.candidates(gap)
            if args.json:
                console.line(json.dumps({"candidates": [asdict(c) for c in candidates]}, ensure_ascii=False))
                return 0
            for candidate in candidates:
                console.line(f"# {candidate.score:.2f}\n{candidate.text}")
            return 0
        for piece in chain.stream(gap):
            console.out(piece)
    console.line()
    return 0
