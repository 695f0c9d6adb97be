"""The verbs that do one thing with one text: `agent summarize`, `classify`, `complete` and `code`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import console
from agent.cli.options import (
    FILE,
    JSON,
    MODEL_OPTIONS,
    STORE_OPTIONS,
    Args,
    OneOf,
    flag,
    number,
    option,
    parts_from,
    verb,
    words,
    words_of,
)
from agent.errors import RequestError

if TYPE_CHECKING:
    from agent.build import Parts
    from chains import CodeResult
    from chains.summarize import Summary


def summary_length(text: str) -> dict[str, int]:
    """An option type: "5", "5s", "5 sentences", "200w" or "200 words"."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*(w|words?|s|sentences?)?\s*", text)
    if match is None or not 1 <= int(match[1]) <= 5000:
        raise click.BadParameter(f"expected a length such as 200w or 5s, from 1 to 5000, found {text!r}")
    return {"words" if (match[2] or "s").startswith("w") else "sentences": int(match[1])}


@verb(
    words("path", nargs=1, default="-", type=FILE, metavar="[PATH|-]", help="a file or folder; - is stdin"),
    flag("--stored", help="PATH is a document of the store, as `agent docs list` names it"),
    option(
        "--length",
        type=summary_length,
        metavar="N[w|s]",
        help='most words ("200 words", 200w) or sentences (5s, or 5)',
    ),
    option("--style", type=OneOf(["text", "bullets", "tldr"]), default="text", help="how it looks (text)"),
    option("--focus", default="", metavar="QUESTION", help="keep to this question"),
    option("--audience", default="", help="for whom (needs a model that writes)"),
    option("--language", default="", help="in which language (needs a model that writes)"),
    flag("--refine", help="read part by part, stdin as it comes, and show each state"),
    flag("--cite", help="name the part that each sentence comes from"),
    JSON,
    *MODEL_OPTIONS,
    *STORE_OPTIONS,
)
def summarize(args: Args) -> int:
    """Summarize and print."""
    console.note("agent: starting …")
    from chains import summarize_chain
    from chains.summarize import Style

    with parts_from(args) as parts, console.progress_bar("parts") as bar:
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
        pieces = _source(parts, args)
        summary = _refined(chain.transform(pieces)) if args.refine else chain.invoke(_joined(pieces))
    for path, reason in summary.unread:
        console.note(f"left out {console.display_path(path)}: {console.as_typed(reason)}")
    if args.json:
        console.write_json(summary.to_dict())
    else:
        console.line(_cited(summary, bullets=style.bullets) if args.cite else summary.text)
    return 0


def _source(parts: Parts, args: Args) -> Iterator[Any]:
    """Yield what is to be summarized: a stored document, a path, or pieces of standard input."""
    from chains.summarize import StoreSource

    if args.stored:
        if not parts.settings.store.exists():
            raise RequestError(
                f"expected a store at {str(parts.settings.store)!r}, found none; agent ingest PATH makes it"
            )
        yield StoreSource(parts.store, args.path)
    elif args.path != "-":
        yield Path(args.path).expanduser()
    else:
        from agent.cli.files import stdin_pieces

        yield from stdin_pieces(whole=not args.refine)


def _joined(pieces: Iterator[Any]) -> Any:
    found = list(pieces)
    return "".join(found) if all(isinstance(one, str) for one in found) else found


def _refined(states: Iterator[Summary]) -> Summary:
    """Return the last state; show each earlier one on stderr as reading goes on."""
    last = next(states)
    for state in states:
        if last.text != state.text:
            console.note(f"after {len(last.parts)} parts: {last.text}\n")
        last = state
    return last


def _cited(summary: Summary, *, bullets: bool) -> str:
    """Return the sentences, each with the number of its part, and under them the list of parts."""
    numbers: dict[int, int] = {}
    for sentence in summary.sentences:
        numbers.setdefault(sentence.part, len(numbers) + 1)
    lead = "\n- " if bullets else " "
    text = "".join(f"{lead}{one.text} [{numbers[one.part]}]" for one in summary.sentences).strip()
    places = [
        f"[{place}] {console.display_path(part.source)}" + (f", {part.heading}" if part.heading else "")
        for index, place in numbers.items()
        for part in (summary.parts[index],)
    ]
    return "\n".join([text, "", *places])


@verb(
    words("text", metavar="[TEXT|-]...", help="the text; - or nothing is standard input"),
    option(
        "--labels",
        required=True,
        metavar="A,B,C|@FILE",
        help="labels, each with =description if needed; a file holds one a line, or JSON (nested: groups)",
    ),
    option("--examples", type=FILE, metavar="FILE.csv", help="labelled examples: columns text and label"),
    option("--csv", type=FILE, metavar="IN.csv", help="classify a column of this table"),
    option("--column", default="text", metavar="NAME", help="the column (text)"),
    option(
        "--out",
        type=FILE,
        metavar="OUT.csv",
        help="the table with labels; a run that stopped goes on there",
    ),
    flag("--multi-label", help="every label that applies"),
    option("--abstain-below", type=number(0, 1), default=0.0, metavar="P", help="no label below this"),
    flag("--explain", help="name the sentence that speaks most for it"),
    JSON,
    *MODEL_OPTIONS,
)
def classify(args: Args) -> int:
    """Classify a text or a table and print."""
    if bool(args.csv) != bool(args.out):
        raise RequestError("expected --csv and --out together, found one of them; name both tables")
    console.note("agent: starting …")

    with parts_from(args) as parts:
        return _classify_table(parts, args) if args.csv else _classify_text(parts, args)


def _classify_text(parts: Parts, args: Args) -> int:
    from agent.cli.request import words_or_stdin

    with console.progress_bar("windows") as bar:

        def progress(done: int, total: int) -> None:
            bar(console.Step(done=done, total=total))

        found = _classifier(parts, args, progress).invoke(words_or_stdin(args.text))
    if args.json:
        console.write_json(found.to_dict())
        return 0
    names = found.labels if args.multi_label else [found.label or "(none)"]
    probable = found.scores | found.groups
    for name in names:
        console.line(f"{name}  {probable[name]:.2f}" if name in probable else name)
    if found.evidence:
        console.line(f"because: {found.evidence}")
    return 0


def _classify_table(parts: Parts, args: Args) -> int:
    from chains.classify.table import classify_table

    with console.progress_bar("rows") as bar:
        report = classify_table(
            _classifier(parts, args),
            Path(args.csv),
            Path(args.out),
            column=args.column,
            progress=lambda done, total: bar(console.Step(done=done, total=total)),
        )
    if args.json:
        console.write_json(vars(report))
    else:
        console.line(
            f"{report.rows} rows in {args.out}, {report.resumed} done before, {report.skipped} without text"
        )
        if report.columns[0] != "label":
            console.line(f"the table has a column 'label' already; the labels are in {report.columns[0]!r}")
    return 0


def _labels(given: str) -> Any:
    """Return the labels of the command line or of a file, which holds JSON or one label a line."""
    listed = given.split(",")
    if given.startswith("@"):
        from agent.cli.files import read_text

        text = read_text(given[1:])
        if text.lstrip()[:1] in ("{", "["):
            try:
                return json.loads(text)
            except ValueError as error:
                raise RequestError(f"expected JSON in {given[1:]!r}, found {error}; mend it") from error
        listed = [line for line in text.splitlines() if line.strip()]
    pairs = [part.partition("=") for part in listed]
    if any(separator for _, separator, _ in pairs):
        return {name.strip(): description.strip() for name, _, description in pairs}
    return [name.strip() for name, _, _ in pairs]


def _classifier(parts: Parts, args: Args, progress: Callable[[int, int], None] | None = None) -> Any:
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


@verb(
    words("prefix", metavar="[TEXT|-]...", help="what to continue; - or nothing is stdin"),
    option("--suffix", default="", metavar="TEXT", help="what stands behind the gap"),
    flag("--code", help="code: stops at the end of the block or function"),
    option("--lang", default="python", help="the language of the code (python)"),
    flag("--single-line", help="stop at the end of the line"),
    option("-n", type=number(1, 16, whole=True), default=1, metavar="N", help="candidates, best first (1)"),
    flag("--json", help="print one JSON object with the candidates"),
    *MODEL_OPTIONS,
)
def complete(args: Args) -> int:
    """Complete and print the completion alone."""
    from agent.cli.request import words_or_stdin

    prefix = words_or_stdin(args.prefix, as_typed=True)
    if not prefix and not args.suffix:
        raise RequestError("expected something to continue, found nothing; pass it, or pipe it in")
    console.note("agent: starting …")
    from chains import complete_chain

    with parts_from(args) as parts:
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
                console.write_json({"candidates": [asdict(c) for c in candidates]})
                return 0
            for candidate in candidates:
                console.line(f"# {candidate.score:.2f}\n{candidate.text}")
            return 0
        for piece in chain.stream(gap):
            console.out(piece)
    console.line()
    return 0


@verb(
    words("request", metavar="TEXT...", required=True, help="what the code is to do"),
    option("--test", multiple=True, metavar="EXPR", help='must be true: "f(2) == 4"'),
    option("--out", type=FILE, metavar="FILE", help="write the code there; never over a file"),
    flag("--force", help="let --out write over a file"),
    flag("--run", help="run the code by itself, too, and print its output"),
    option("--lang", type=OneOf(["python"]), default="python", help="the language (python)"),
    option("--repairs", type=number(0, 10, whole=True), default=2, metavar="N", help="repairs (2)"),
    option("--candidates", type=number(1, 16, whole=True), default=1, metavar="N", help="versions (1)"),
    JSON,
    *MODEL_OPTIONS,
)
def code(args: Args) -> int:
    """Write code, run it and print it; the exit code is 4 if the given examples fail."""
    console.note("agent: starting …")
    from agent import errors
    from agent.cli.request import write_new
    from chains import CodeResult, code_chain

    if args.out and Path(args.out).expanduser().exists() and not args.force:
        raise RequestError(f"expected no file at {args.out!r}, found one; name another, or pass --force")
    with parts_from(args) as parts:
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
        _show_code(result, args)
        if args.run and result.code:
            ran = parts.sandbox.run(result.code)
            console.out(ran.stdout)
            console.note(f"run: {ran.status} {console.shorten(ran.stderr, 200)}")
    return errors.FAILED_EXAMPLES if result.status == "failed" else errors.DONE


def _show_code(result: CodeResult, args: Args) -> None:
    if args.json:
        console.write_json({**asdict(result), "verified": result.verified})
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
