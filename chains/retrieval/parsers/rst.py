"""reStructuredText as a reader sees it, on the lines of its file.

Comments, link targets and the marks of directives are left out, and the rows of tables name their columns.
docutils is not used: it would lose the lines, and it runs directives (include, raw).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import Heading, sections
from chains.retrieval.parsers.decoding import decode_with_doubt
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import row_text

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_RST_FIELD = re.compile(r":?([A-Za-z][\w-]*):[ \t]+(\S.*)$")


def parse_rst(name: str, data: bytes) -> ParsedDocument:
    """Parse reStructuredText: one block per section; the title is a `Title:` field or the first title.

    The header fields of a PEP, or a leading field list, are metadata.
    """
    source, doubt = decode_with_doubt(name, data)
    fields = _rst_fields(source)
    text = "\n".join(_seen(source.split("\n")))
    headings = list(_rst_headings(text))
    top = headings[0].text if headings and headings[0].level == 1 and "title" not in fields else ""
    title = str(fields.pop("title", "")) or top or stem(name)
    if "pep" in fields:
        title = f"PEP {fields['pep']} – {title}"  # noqa: RUF001 (the dash that PEP titles are printed with)
    blocks = sections(headings, len(text), title)
    return ParsedDocument(text=text, title=title, kind="rst", blocks=blocks, metadata=fields, partly=doubt)


def _rst_fields(text: str) -> dict[str, Any]:
    """Return the RFC 2822 header or field list at the very top."""
    found: dict[str, Any] = {}
    key = ""
    for line in text[:20_000].split("\n"):
        if match := _RST_FIELD.match(line):
            key = match[1].lower()
            found[key] = match[2].strip()
        elif key and line.startswith((" ", "\t")) and line.strip():
            found[key] += f" {line.strip()}"
        elif line.strip() or found:
            break
    return found


def _rst_headings(text: str) -> Iterator[Heading]:
    """Find titles by their underline (and overline); each style is a level, in the order of appearance."""
    levels: dict[str, int] = {}
    lines = text.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    for number in range(1, len(lines)):
        title, under = lines[number - 1].rstrip(), lines[number].rstrip()
        if (
            not _is_rule(under)
            or not title.strip()
            or _is_rule(title)
            or len(under) < min(len(title.strip()), 4)
        ):
            continue
        above = lines[number - 2].rstrip() if number >= 2 else ""
        over = _is_rule(above) and above[0] == under[0] and len(above) >= len(title.strip())
        if (title[0] in " \t" and not over) or (above.strip() and not over):
            continue
        style = f"{under[0]}{'^' if over else ''}"
        level = levels.setdefault(style, len(levels) + 1)
        start = offsets[number - 2] if over else offsets[number - 1]
        yield Heading(start, offsets[number + 1], level, title.strip().replace("`", ""))


def _is_rule(line: str) -> bool:
    return len(line) >= 2 and line[0] in _PUNCTUATION and line == line[0] * len(line)


# What a reader sees -----------------------------------------------------------------------------------------

_EXPLICIT = re.compile(r"([ \t]*)\.\.(?:[ \t]+(.*))?$")
_DIRECTIVE = re.compile(r"(?:\|[^|\n]+\|[ \t]+)?([\w:.+-]+)::(?:[ \t]+(.*))?$")
_NOTE = re.compile(r"\[(?:\d+|#[\w-]*|\*|[A-Za-z][\w.-]*)\][ \t]+")
_OPTION = re.compile(r"[ \t]+:[\w-]+:(?:[ \t]+(.*))?$")
_SIMPLE_RULE = re.compile(r"[ \t]*=+(?:[ \t]+=+)+[ \t]*$")
_GRID_RULE = re.compile(r"[ \t]*\+(?:[-=]+\+)+[ \t]*$")
_ROLE = re.compile(r":[\w:+.-]+:`([^`\n]*)`")
_LINK = re.compile(r"`([^`<\n]+?)\s*<[^>\n]+>`__?")
_ADMONITIONS = frozenset(
    "attention caution danger error hint important note tip warning seealso admonition versionadded "
    "versionchanged deprecated topic sidebar rubric".split()
)
_CODE = frozenset(
    {"code-block", "code", "sourcecode", "parsed-literal", "prompt", "doctest", "math", "highlight"}
)
_DROPPED = frozenset(
    "toctree contents include literalinclude raw index meta currentmodule sectnum section-numbering replace "
    "unicode default-role role container-options title tags only date image class "
    "default-domain py:currentmodule".split()
)
_PICTURES = frozenset({"image", "figure"})


def _seen(lines: list[str]) -> list[str]:
    """Return what a reader sees of each line."""
    found = [""] * len(lines)
    at = 0
    while at < len(lines):
        line = lines[at]
        match = _EXPLICIT.match(line)
        if match:
            at = _explicit(lines, found, at, match)
        elif _SIMPLE_RULE.match(line):
            at = _simple_table(lines, found, at)
        elif _GRID_RULE.match(line):
            at = _grid_table(lines, found, at)
        else:
            found[at] = _inline(line)
            at += 1
    return found


def _inline(line: str) -> str:
    if "`" not in line:
        return line
    line = _ROLE.sub(lambda match: re.sub(r"\s*<[^>]*>$", "", match[1]).lstrip("~!"), line)
    return _LINK.sub(r"\1", line)


def _body_end(lines: Sequence[str], at: int, indent: int) -> int:
    """Return the line after the indented lines that belong to explicit markup on line `at`."""
    end = at + 1
    while end < len(lines) and (
        not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent
    ):
        end += 1
    return end


def _explicit(lines: list[str], found: list[str], at: int, match: re.Match[str]) -> int:
    """Read a comment, a target, a note or a directive; return the line to go on with."""
    rest = (match[2] or "").strip()
    end = _body_end(lines, at, len(match[1]))
    if directive := _DIRECTIVE.match(rest):
        return _directive(lines, found, at, end, directive)
    if _NOTE.match(rest):
        found[at] = _inline(rest)
        return at + 1
    return end if rest or (at + 1 < end and lines[at + 1].strip()) else at + 1


def _directive(lines: list[str], found: list[str], at: int, end: int, directive: re.Match[str]) -> int:
    name, argument = directive[1].lower(), (directive[2] or "").strip()
    body = at + 1
    options: dict[str, str] = {}
    while body < end and (option := _OPTION.match(lines[body])):
        options[lines[body].split(":")[1]] = option[1] or ""
        body += 1
    if name in _PICTURES:
        alternative = options.get("alt", "")
        found[at] = f"(picture: {alternative})" if len(alternative.split()) > 2 else ""
        return body if name == "figure" else end
    if name in _DROPPED:
        return end
    if name in {"list-table", "csv-table"}:
        found[at] = argument
        rows = _list_rows(lines, body, end) if name == "list-table" else _csv_rows(lines, body, end)
        heads = [
            cell.strip() for cell in next(csv.reader([options.get("header", "")], skipinitialspace=True), [])
        ]
        _put_rows(found, rows, [heads] if any(heads) else [], int(options.get("header-rows") or 0))
        return end
    if name in _CODE:
        found[body:end] = lines[body:end]
        return end
    word = name.rpartition(":")[2].replace("-", " ")
    shown = {"versionadded": "New in version", "versionchanged": "Changed in version"}.get(
        word, word.capitalize()
    )
    if name in _ADMONITIONS:
        found[at] = (
            f"{shown}: {argument}".strip() if name not in {"topic", "rubric", "admonition"} else argument
        )
    else:
        found[at] = argument
    return body


def _put_rows(
    found: list[str], rows: Sequence[tuple[int, list[str]]], heads: Sequence[Sequence[str]], count: int
) -> None:
    names = [
        " ".join(filter(None, parts))
        for parts in zip(*(*heads, *(row for _, row in rows[:count])), strict=False)
    ]
    for at, row in rows[count:]:
        found[at] = row_text(names, row)


def _list_rows(lines: Sequence[str], body: int, end: int) -> list[tuple[int, list[str]]]:
    rows: list[tuple[int, list[str]]] = []
    for at in range(body, end):
        line = lines[at].strip()
        if match := re.match(r"\* +-(?: +(.*))?$", line):
            rows.append((at, [_inline(match[1] or "")]))
        elif match := re.match(r"-(?: +(.*))?$", line):
            if rows:
                rows[-1][1].append(_inline(match[1] or ""))
        elif line and rows:
            rows[-1][1][-1] = f"{rows[-1][1][-1]} {_inline(line)}".strip()
    return rows


def _csv_rows(lines: Sequence[str], body: int, end: int) -> list[tuple[int, list[str]]]:
    return [
        (at, [cell.strip() for cell in next(csv.reader([lines[at].strip()], skipinitialspace=True), [])])
        for at in range(body, end)
        if lines[at].strip()
    ]


def _simple_table(lines: list[str], found: list[str], at: int) -> int:
    """Read a table whose columns are ruled with `=`; return the line after it."""
    spans = [match.span() for match in re.finditer(r"=+", lines[at])]
    rules = [at]
    for below in range(at + 1, len(lines)):
        if _SIMPLE_RULE.match(lines[below]):
            rules.append(below)
            if below + 1 >= len(lines) or not lines[below + 1].strip():
                break
        elif (
            not lines[below].strip()
            and len(rules) > 1
            and below + 1 < len(lines)
            and not lines[below + 1].strip()
        ):
            break
    if len(rules) < 2:
        found[at] = lines[at]
        return at + 1
    rows: list[tuple[int, list[str]]] = []
    header = 0
    for line in range(at + 1, rules[-1]):
        if line in rules:
            header = header or len(rows)
        elif lines[line].strip() and not re.fullmatch(r"[ \t-]+", lines[line]):
            cells = _cells(lines[line], spans)
            if rows and not cells[0] and line - 1 not in rules:
                above = rows[-1][1]
                above[:] = [" ".join(filter(None, pair)) for pair in zip(above, cells, strict=True)]
            else:
                rows.append((line, cells))
    _put_rows(found, rows, [], header if len(rules) > 2 else 0)
    return rules[-1] + 1


def _cells(line: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    starts = [start for start, _ in spans]
    ends = [*starts[1:], max(len(line), spans[-1][1])]
    return [_inline(line[start:end].strip()) for start, end in zip(starts, ends, strict=True)]


def _grid_table(lines: list[str], found: list[str], at: int) -> int:
    """Read a table in a drawn grid; return the line after it."""
    end = at
    while end < len(lines) and lines[end].lstrip()[:1] in {"+", "|"}:
        end += 1
    rows: list[tuple[int, list[str]]] = []
    header = 0
    fresh = True
    for line in range(at + 1, end):
        text = lines[line].strip()
        if text.startswith("+"):
            header = len(rows) if "=" in text else header
            fresh = True
            continue
        cells = [_inline(cell.strip()) for cell in text.strip("|").split("|")]
        if fresh or len(cells) != len(rows[-1][1]):
            rows.append((line, cells))
        else:
            rows[-1] = (
                rows[-1][0],
                [" ".join(filter(None, p)) for p in zip(rows[-1][1], cells, strict=True)],
            )
        fresh = False
    if not rows:
        found[at:end] = lines[at:end]
    _put_rows(found, rows, [], header)
    return max(end, at + 1)
