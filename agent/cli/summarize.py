"""`agent summarize`: a file, a folder, or standard input."""

from __future__ import annotations

import argparse
import codecs
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import add_model_options, add_store_options, settings_from

if TYPE_CHECKING:
    from agent.build import Parts
    from chains.summarize import Summary


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", nargs="?", default="-", metavar="PATH|-", help="a file or folder; - is stdin")
    parser.add_argument(
        "--stored", action="store_true", help="PATH is a document of the store, as `agent docs list` names it"
    )
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
        "--refine", action="store_true", help="read part by part, stdin as it comes, and show each state"
    )
    parser.add_argument("--cite", action="store_true", help="name the part that each sentence comes from")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser)
    add_store_options(parser)


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
        pieces = _input(parts, args)
        summary = _refined(chain.transform(pieces)) if args.refine else chain.invoke(_joined(pieces))
    for path, reason in summary.unread:
        console.note(f"left out {console.display_path(path)}: {reason}")
    if args.json:
        console.line(json.dumps(summary.to_dict(), ensure_ascii=False, default=str))
    else:
        console.line(_cited(summary, bullets=style.bullets) if args.cite else summary.text)
    return 0


def _input(parts: Parts, args: argparse.Namespace) -> Iterator[Any]:
    from chains.summarize import StoreSource

    if args.stored:
        from agent.errors import RequestError

        if not parts.settings.store.exists():
            raise RequestError(
                f"expected a store at {str(parts.settings.store)!r}, found none; agent ingest PATH makes it"
            )
        yield StoreSource(parts.store, args.path)
    elif args.path != "-":
        yield Path(args.path).expanduser()
    else:
        decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        stdin: Any = sys.stdin.buffer
        while data := stdin.read1(1 << 16):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)


def _joined(pieces: Iterator[Any]) -> Any:
    found = list(pieces)
    return "".join(found) if all(isinstance(one, str) for one in found) else found


def _refined(states: Iterator[Summary]) -> Summary:
    """The last state; each earlier one is shown on stderr as the reading goes on."""
    last = next(states)
    for state in states:
        if last.text != state.text:
            console.note(f"after {len(last.parts)} parts: {last.text}\n")
        last = state
    return last


def _cited(summary: Summary, *, bullets: bool) -> str:
    """The sentences with numbers, and under them the parts that these stand for."""
    number: dict[int, int] = {}
    for sentence in summary.sentences:
        number.setdefault(sentence.part, len(number) + 1)
    lead = "\n- " if bullets else " "
    told = "".join(f"{lead}{one.text} [{number[one.part]}]" for one in summary.sentences).strip()
    places = [
        f"[{place}] {console.display_path(part.source)}" + (f", {part.heading}" if part.heading else "")
        for index, place in number.items()
        for part in (summary.parts[index],)
    ]
    return "\n".join([told, "", *places])


def _length(text: str) -> dict[str, int]:
    """An argparse type: "5", "5s", "5 sentences", "200w" or "200 words"."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*(w|words?|s|sentences?)?\s*", text)
    if match is None or not 1 <= int(match[1]) <= 5000:
        raise argparse.ArgumentTypeError(
            f"expected a length such as 200w or 5s, from 1 to 5000, found {text!r}"
        )
    return {"words" if (match[2] or "s").startswith("w") else "sentences": int(match[1])}
