"""`agent summarize`: a file, a folder, or standard input."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from agent.cli import console
from agent.cli.options import add_model_options, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", nargs="?", default="-", metavar="PATH|-", help="a file or folder; - is stdin")
    parser.add_argument(
        "--length",
        type=_length,
        metavar="N[w|s]",
        help='most words ("200 words", 200w) or sentences (5s, or 5)',
    )
    parser.add_argument(
        "--style", choices=["text", "bullets", "tldr"], default="text", help="how it looks (text)"
    )
    parser.add_argument("--focus", default="", metavar="QUESTION", help="keep to this question")
    parser.add_argument("--audience", default="", help="for whom (needs a model that writes)")
    parser.add_argument("--language", default="", help="in which language (needs a model that writes)")
    parser.add_argument(
        "--refine", action="store_true", help="read part by part, keeping one summary up to date"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Summarize and print."""
    console.configure(args)
    console.note("agent: starting …")
    from agent.build import Parts
    from chains import summarize_chain
    from chains.summarize import Style

    with Parts(settings_from(args)) as parts, console.progress_bar("parts") as bar:
        style = Style(
            bullets=args.style == "bullets",
            tldr=args.style == "tldr",
            focus=args.focus,
            audience=args.audience,
            language=args.language,
            **(args.length or {}),
        )
        chain = summarize_chain(
            parts.model,
            embeddings=parts.embeddings,
            style=style,
            refine=args.refine,
            cache=parts.settings.folders.cache / "summaries",
            progress=lambda done, total: bar(console.Step(done=done, total=total)),
        )
        summary = chain.invoke(_input(args.path))
    console.line(
        json.dumps(summary.to_dict(), ensure_ascii=False, default=str) if args.json else summary.text
    )
    return 0


def _input(path: str) -> Any:
    from pathlib import Path

    return Path(path) if path != "-" else sys.stdin.buffer.read().decode("utf-8", "replace")


def _length(text: str) -> dict[str, int]:
    """An argparse type: "5", "5s", "5 sentences", "200w" or "200 words"."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*(w|words?|s|sentences?)?\s*", text)
    if match is None or not 1 <= int(match[1]) <= 5000:
        raise argparse.ArgumentTypeError(
            f"expected a length such as 200w or 5s, from 1 to 5000, found {text!r}"
        )
    return {"words" if (match[2] or "s").startswith("w") else "sentences": int(match[1])}
