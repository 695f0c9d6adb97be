"""reStructuredText by a linear scan: underlined titles, the header fields of a PEP or a field list.

Keeps the file's own text, so that offsets count its lines. docutils is not used: it would lose the offsets,
and it runs directives (include, raw).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.headings import Heading, sections
from chains.retrieval.parsers.plain import decode, stem

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_FIELD = re.compile(r":?([A-Za-z][\w-]*):[ \t]+(\S.*)$")


def parse_rst(name: str, data: bytes) -> ParsedDocument:
    """reStructuredText: a block a section; titled by a leading `Title:` field, else its first title."""
    text = decode(name, data)
    fields = _fields(text)
    headings = list(_headings(text))
    top = headings[0].text if headings and headings[0].level == 1 and "title" not in fields else ""
    title = str(fields.pop("title", "")) or top or stem(name)
    if "pep" in fields:
        title = f"PEP {fields['pep']} – {title}"  # noqa: RUF001 (the dash that PEP titles are printed with)
    blocks = sections(headings, len(text), title)
    return ParsedDocument(text=text, title=title, kind="rst", blocks=blocks, metadata=fields)


def _fields(text: str) -> dict[str, Any]:
    """The RFC 2822 or field-list header at the very top."""
    found: dict[str, Any] = {}
    key = ""
    for line in text[:20_000].split("\n"):
        if match := _FIELD.match(line):
            key = match[1].lower()
            found[key] = match[2].strip()
        elif key and line.startswith((" ", "\t")) and line.strip():
            found[key] += f" {line.strip()}"
        elif line.strip() or found:
            break
    return found


def _headings(text: str) -> Iterator[Heading]:
    """Titles by their underline (and overline); a level for each style in the order of appearance."""
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
