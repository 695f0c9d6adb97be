"""JSON, JSON lines, YAML, TOML and INI: every value with the path of keys that leads to it, on its line.

A record (an object in a list) is one line of text, at the line where it begins in the file, so that it is
found and quoted as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.filelines import FileLines
from chains.retrieval.parsers.plain import stem

# A record of more characters is written value by value.
_RECORD_CHARS = 2000
_MAX_DEPTH = 500


class Leaf(NamedTuple):
    """A value with the path of keys that leads to it; `record` numbers the records, -1 is outside them."""

    line: int
    path: str
    value: str
    record: int = -1


def parse_json(name: str, data: bytes) -> ParsedDocument:
    """Parse JSON: a record is a line, other values are a line each, `path: value`."""
    text = decode(name, data)
    value = _loaded(name, text)
    title = value.get("title") if isinstance(value, dict) else None
    del value
    title = title if isinstance(title, str) and title else stem(name)
    leaves = _json_leaves(text)
    # A file without line ends, as programs write it, has records but no lines that a person could look up.
    if text.count("\n") * 400 < len(text):
        builder = DocumentBuilder(name, "json")
        for _, line in record_lines(leaves):
            builder.add(line)
        return builder.document(title)
    page = FileLines(text.count("\n") + 1)
    for at, line in record_lines(leaves):
        page.put(at, line, "; ")
    return with_lines(page.document(name, "json", title))


def with_lines(document: ParsedDocument) -> ParsedDocument:
    """Return a document of `FileLines` whose blocks say so."""
    from dataclasses import replace

    blocks = tuple(
        replace(block, place={**block.place, "line": document.text.count("\n", 0, block.start) + 1})
        for block in document.blocks
    )
    return replace(document, blocks=blocks)


def record_lines(leaves: Iterable[Leaf]) -> Iterator[tuple[int, str]]:
    """Yield (line of the file, text): one for each record, and one for each value outside records."""
    record: list[Leaf] = []
    for leaf in leaves:
        if record and leaf.record != record[0].record:
            yield from _record(record)
            record = []
        if leaf.record < 0:
            yield leaf.line, f"{leaf.path}: {leaf.value}" if leaf.path else leaf.value
        else:
            record.append(leaf)
    if record:
        yield from _record(record)


def _record(leaves: list[Leaf]) -> Iterator[tuple[int, str]]:
    pairs = [(leaf.line, f"{leaf.path}: {leaf.value}" if leaf.path else leaf.value) for leaf in leaves]
    if sum(len(text) for _, text in pairs) <= _RECORD_CHARS:
        yield pairs[0][0], "; ".join(" ".join(text.split()) for _, text in pairs)
    else:
        yield from pairs


# JSON -------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]|:|[^\s{}\[\]:,"]+', re.DOTALL)


class _Open:
    """An object or list that is being read: its path, and the scalars of a list so far."""

    def __init__(self, is_list: bool, path: str, record: int, line: int) -> None:
        self.is_list, self.path, self.record, self.line = is_list, path, record, line
        self.key = ""
        self.scalars: list[str] = []

    def child(self) -> str:
        if self.is_list:
            return self.path
        return f"{self.path}.{self.key}" if self.path else self.key


def _json_leaves(text: str) -> Iterator[Leaf]:
    """Yield the values of valid JSON in order with their lines; without recursion, as files may be deep."""
    stack: list[_Open] = []
    line = at = records = 0
    expects_key = False
    for match in _TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        token = match[0]
        top = stack[-1] if stack else _Open(False, "", -1, 0)
        if token in "{[":
            yield from _scalars(top)
            path, record = top.child(), top.record
            if token == "{" and record < 0 and top.is_list:
                path, record, records = "", records, records + 1
            stack.append(_Open(token == "[", path, record, line))
            expects_key = token == "{"
        elif token in "}]":
            yield from _scalars(stack.pop())
            expects_key = False
        elif token in ",:":
            expects_key = token == "," and bool(stack) and not top.is_list
        elif expects_key:
            top.key = str(json.loads(token))
        elif value := _scalar(json.loads(token)):
            if top.is_list:
                top.line = top.line if top.scalars else line
                top.scalars.append(value)
            else:
                yield Leaf(line, top.child(), value, top.record)


def _scalars(one: _Open) -> Iterator[Leaf]:
    values, one.scalars = one.scalars, []
    if values:
        yield Leaf(one.line, one.path, ", ".join(values), one.record)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _loaded(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedDocument(f"expected JSON in {name!r}, found {str(error)!r}; correct the file") from error


def parse_jsonl(name: str, data: bytes) -> ParsedDocument:
    """Parse JSON lines: one line per record; a line that is not JSON is kept as text."""
    lines = decode(name, data).split("\n")
    page = FileLines(len(lines))
    broken = records = 0
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        records += 1
        try:
            json.loads(line)
        except ValueError:
            broken += 1
            page.put(at, line)
            continue
        page.put(at, "; ".join(text for _, text in record_lines(_json_leaves(f"[{line}]"))))
    if broken == records:
        raise DamagedDocument(f"expected one JSON value a line in {name!r}, found none; rename it to .txt")
    document = page.document(name, "jsonl", stem(name), {"records": records, "broken_lines": broken or None})
    return with_lines(document)


# YAML -------------------------------------------------------------------------------------------------------


def parse_yaml(name: str, data: bytes) -> ParsedDocument:
    """Parse YAML: a line for each value, `path: value`; what is no YAML (a template) is kept as text."""
    import yaml

    text = decode(name, data)
    lines = text.split("\n")
    page = FileLines(len(lines))
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for root in yaml.compose_all(text, Loader=loader):
            if root is not None:
                _yaml_node(page, root, lines)
    except (yaml.YAMLError, RecursionError, ValueError):
        page.lines = list(lines)
    for at, line in enumerate(lines):
        if (comment := _comment(line)) and not page.lines[at]:
            page.put(at, comment)
    if not any(page.lines):
        page.lines = list(lines)
    return with_lines(page.document(name, "yaml", stem(name)))


_DISABLED = re.compile(r"#\s*-?\s*[\w.\"'/-]+\s*:|#\s*[\w .\"'/-]{1,40}=|#\s*- |#\s*\[|#!")


def _comment(line: str) -> str:
    """Return a line's comment if it is words; a setting that is commented out is none."""
    text = line.strip()
    return text if text.startswith("# ") and not _DISABLED.match(text) else ""


def _yaml_node(page: FileLines, root: Any, lines: list[str]) -> None:
    """Write the values below a node; a node that several places refer to is written at the first."""
    seen: set[int] = set()
    pending: list[tuple[str, Any, int]] = [("", root, 0)]
    while pending:
        path, node, depth = pending.pop()
        if depth > _MAX_DEPTH:
            continue
        if node.id == "scalar":
            _yaml_scalar(page, path, node, lines)
        elif id(node) in seen:
            continue
        elif node.id == "mapping":
            seen.add(id(node))
            below = [(_key(path, key), value, depth + 1) for key, value in node.value]
            pending.extend(reversed(below))
        else:
            seen.add(id(node))
            pending.extend(reversed(list(_yaml_items(page, path, node, depth))))


def _yaml_items(page: FileLines, path: str, node: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
    plain = [item.value for item in node.value if item.id == "scalar"]
    if len(plain) == len(node.value) and node.start_mark.line == node.end_mark.line and plain:
        page.put(node.start_mark.line, f"{path}: {', '.join(plain)}" if path else ", ".join(plain), "; ")
        return
    for item in node.value:
        label = _label(item)
        yield (f"{path}[{label}]" if label else path), item, depth + 1


def _label(item: Any) -> str:
    """Return the value that names an item of a list: that of `name`, `id`, `title` or the first key."""
    if item.id != "mapping":
        return ""
    named = {key.value: value.value for key, value in item.value if key.id == value.id == "scalar"}
    first = next(iter(named.values()), "")
    found = next((named[key] for key in ("name", "id", "title", "key") if named.get(key)), first)
    return " ".join(str(found).split()) if len(str(found)) <= 60 else ""


def _key(path: str, key: Any) -> str:
    name = str(key.value) if key.id == "scalar" else "?"
    return f"{path}.{name}" if path else name


def _yaml_scalar(page: FileLines, path: str, node: Any, lines: list[str]) -> None:
    start, end = node.start_mark.line, node.end_mark.line
    if node.style in {"|", ">"}:
        page.put(start, f"{path}:", "; ")
        for at in range(start + 1, min(end + (node.end_mark.column > 0), len(lines))):
            page.put(at, lines[at])
    elif node.value != "" and node.value not in {"null", "~"}:
        value = " ".join(node.value.split())
        page.put(start, f"{path}: {value}" if path else value, "; ")


# TOML and INI -----------------------------------------------------------------------------------------------

_SECTION = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(?:[#;].*)?$")
_SETTING = re.compile(r"\s*((?:[\w.-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"))*)\s*[=:]\s*(.*)$")
_TRAILING = re.compile(r"""((?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*')*)#.*$""")


def parse_toml(name: str, data: bytes) -> ParsedDocument:
    """Parse TOML or INI: a line for each setting, `section.key: value`, without comments."""
    lines = decode(name, data).split("\n")
    page = FileLines(len(lines))
    section = fence = ""
    opened = -1  # the line of a list that goes on over lines
    for at, line in enumerate(lines):
        if fence:
            page.put(at, line.replace(fence, ""))
            fence = "" if fence in line else fence
        elif opened >= 0:
            values = _TRAILING.sub(r"\1", line).strip()
            if items := _unquoted(f"[{values.rstrip('],')}]"):
                page.put(opened, items, "" if page.lines[opened].endswith(": ") else ", ")
            opened = -1 if values.endswith("]") and not values.startswith("[") else opened
        elif line.lstrip().startswith(("#", ";")):
            page.put(at, _comment(line.replace(";", "#", 1)))
        elif match := _SECTION.match(line):
            section = re.sub(r"[\"'\s]", "", match[1]) if "." in match[1] else match[1].strip("\"'")
        elif match := _SETTING.match(line):
            value = _TRAILING.sub(r"\1", match[2]).strip()
            fence = next((mark for mark in ('"""', "'''") if value.count(mark) == 1), "")
            key = re.sub(r"[\"'\s]", "", match[1])
            if value.startswith("[") and value.count("[") > value.count("]"):
                opened, value = at, value[1:].strip().rstrip(",")
            page.put(at, f"{section}.{key}: {_unquoted(value)}" if section else f"{key}: {_unquoted(value)}")
        else:
            page.put(at, _unquoted(_TRAILING.sub(r"\1", line).strip().rstrip(",]").strip()))
    return with_lines(page.document(name, "toml", stem(name)))


def _unquoted(value: str) -> str:
    """Return a value without the quotes around it or around its items."""
    value = value.replace('"""', "").replace("'''", "")
    if value.startswith("[") and value.rstrip().endswith("]"):
        return ", ".join(part.strip().strip("\"'") for part in value.strip()[1:-1].split(",") if part.strip())
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
