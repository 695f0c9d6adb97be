"""JSON, JSON lines and Jupyter notebooks as readable text.

Every value is written with the path of keys that leads to it. Outputs of notebooks are included if they are
text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.plain import decode, stem

_OUTPUT_CHARS = 4000


def parse_json(name: str, data: bytes) -> ParsedDocument:
    """Parse JSON: one line per value, `path: value`; a list of records becomes one paragraph per record."""
    value = _loaded(name, decode(name, data))
    builder = DocumentBuilder(name, "json")
    records = value if isinstance(value, list) else [value]
    for record in records:
        _record(builder, record)
    title = value.get("title") if isinstance(value, dict) else None
    return builder.document(title if isinstance(title, str) and title else stem(name))


def parse_jsonl(name: str, data: bytes) -> ParsedDocument:
    """Parse JSON lines: one paragraph per record; a line that is not JSON is kept as text."""
    builder = DocumentBuilder(name, "jsonl")
    broken = 0
    lines = [line for line in decode(name, data).split("\n") if line.strip()]
    for line in lines:
        try:
            _record(builder, json.loads(line))
        except ValueError:
            broken += 1
            builder.add(line)
    if broken == len(lines):
        raise DamagedDocument(f"expected one JSON value a line in {name!r}, found none; rename it to .txt")
    return builder.document(stem(name), {"records": len(lines), "broken_lines": broken or None})


def _loaded(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedDocument(f"expected JSON in {name!r}, found {str(error)!r}; correct the file") from error


def _record(builder: DocumentBuilder, record: Any) -> None:
    for path, value in _leaves(record):
        builder.add(f"{path}: {value}" if path else value)
    builder.add("\n", "")


def _leaves(root: Any) -> Iterator[tuple[str, str]]:
    """Yield (path of keys, value) of every scalar in order; without recursion, which deep files exhaust."""
    pending: list[tuple[str, Any]] = [("", root)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending.extend(
                (f"{path}.{key}" if path else str(key), inner) for key, inner in reversed(value.items())
            )
        elif isinstance(value, list):
            scalars = all(not isinstance(inner, dict | list) for inner in value)
            if scalars and value:
                yield path, ", ".join(_scalar(inner) for inner in value)
            else:
                pending.extend((path, inner) for inner in reversed(value))
        elif value not in (None, ""):
            yield path, _scalar(value)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_ipynb(name: str, data: bytes) -> ParsedDocument:
    """Parse a notebook: Markdown cells with their headings, code cells with their text outputs."""
    book = _loaded(name, decode(name, data))
    cells = book.get("cells") if isinstance(book, dict) else None
    if not isinstance(cells, list):
        raise DamagedDocument(f"expected a notebook with cells in {name!r}, found none; save it as version 4")
    builder = DocumentBuilder(name, "ipynb")
    title = ""
    for cell in cells:
        source = _joined(cell.get("source"))
        if cell.get("cell_type") == "markdown":
            title = _markdown(builder, source, title)
        elif cell.get("cell_type") == "code":
            builder.add(source, "\n\n")
            for output in cell.get("outputs") or []:
                builder.add(_output(output)[:_OUTPUT_CHARS], "\n\n")
        else:
            builder.add(source, "\n\n")
    language = (book.get("metadata") or {}).get("language_info", {}).get("name")
    return builder.document(title or stem(name), {"language": language})


def _markdown(builder: DocumentBuilder, source: str, title: str) -> str:
    """Add a Markdown cell; return the notebook's title, which is the first top heading."""
    for line in source.split("\n"):
        marks = len(line) - len(line.lstrip("#"))
        if 1 <= marks <= 6 and line[marks : marks + 1] == " ":
            text = line[marks:].strip()
            builder.heading(text, marks)
            title = title or (text if marks == 1 else "")
        else:
            builder.add(line)
    builder.add("\n", "")
    return title


def _output(output: Any) -> str:
    if not isinstance(output, dict):
        return ""
    found = output.get("text") or (output.get("data") or {}).get("text/plain")
    return _joined(found).strip()


def _joined(source: Any) -> str:
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source or "")
