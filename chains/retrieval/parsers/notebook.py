"""Jupyter notebooks: Markdown with its headings, code, and what the code printed."""

from __future__ import annotations

import json
import re
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.markdown import render_markdown
from chains.retrieval.parsers.plain import stem

_OUTPUT_CHARS = 4000
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_HEADING = re.compile(r"(#{1,6}) (.+)$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def parse_ipynb(name: str, data: bytes) -> ParsedDocument:
    """Parse a notebook: Markdown cells with their headings, code cells with their text outputs."""
    try:
        book = json.loads(decode(name, data))
    except ValueError as error:
        raise DamagedDocument(f"expected JSON in {name!r}, found {str(error)!r}; correct the file") from error
    cells = book.get("cells") if isinstance(book, dict) else None
    if not isinstance(cells, list):
        raise DamagedDocument(f"expected a notebook with cells in {name!r}, found none; save it as version 4")
    builder = DocumentBuilder(name, "ipynb")
    metadata = book.get("metadata")
    info = metadata.get("language_info") if isinstance(metadata, dict) else None
    language = str(info.get("name") or "") if isinstance(info, dict) else ""
    title = ""
    for cell in cells:
        if not isinstance(cell, dict):
            continue
        source = _joined(cell.get("source"))
        if cell.get("cell_type") == "markdown":
            title = _markdown(builder, source, title)
        elif cell.get("cell_type") == "code":
            _code(builder, source, language)
            for output in cell.get("outputs") or []:
                _output(builder, output)
        else:
            builder.add(source, "\n\n")
    return builder.document(title or stem(name), {"language": language})


def _code(builder: DocumentBuilder, source: str, language: str) -> None:
    if source.strip():
        fence = "````" if "```" in source else "```"
        builder.add(f"{fence}{language}\n{source.strip(chr(10))}\n{fence}", "\n\n")


def _markdown(builder: DocumentBuilder, source: str, title: str) -> str:
    """Add a Markdown cell; return the notebook's title, which is the first top heading."""
    page = render_markdown(source.split("\n"))
    fence = ""
    for line in page.lines:
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        match = None if fence else _HEADING.match(line)
        if match:
            builder.heading(match[2], len(match[1]))
            title = title or (match[2] if len(match[1]) == 1 else "")
        elif line or fence:
            builder.add(line or " ")
        else:
            builder.add("\n", "")
    builder.add("\n", "")
    return title


def _output(builder: DocumentBuilder, output: Any) -> None:
    """Add an output that is text: what was printed, a value, a page's text, or an error."""
    if not isinstance(output, dict):
        return
    found = output.get("data")
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    if output.get("output_type") == "error":
        text = f"{output.get('ename') or 'Error'}: {output.get('evalue') or ''}"
    elif output.get("text"):
        text = _joined(output["text"])
    elif data.get("text/plain"):
        text = _joined(data["text/plain"])
    elif data.get("text/markdown"):
        text = "\n".join(render_markdown(_joined(data["text/markdown"]).split("\n")).lines)
    elif data.get("text/html"):
        from chains.retrieval.parsers.webpage import fragment_text

        text = fragment_text(_joined(data["text/html"]))
    else:
        return
    text = _ANSI.sub("", text).strip()
    if re.fullmatch(r"<[\w.]+(?: [^<>]*)?>", text):
        return  # the name of an object, such as a figure
    if len(text) > _OUTPUT_CHARS:
        builder.leave_out(f"an output of {len(text)} characters was cut to {_OUTPUT_CHARS}")
    builder.add(text[:_OUTPUT_CHARS], "\n\n")


def _joined(source: Any) -> str:
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source or "")
