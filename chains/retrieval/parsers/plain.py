r"""Plain text, Markdown and reStructuredText, in one linear scan of their lines.

These formats keep the file's own text, so an offset also gives a line of the file; only line ends become
"\n". Inline markup stays as it is, because it embeds and reads well. docutils is not used: it would lose the
offsets, and it runs directives (include, raw).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.parsers.builder import Heading, sections
from chains.retrieval.parsers.decoding import decode as decode


def stem(name: str) -> str:
    """Return the file name without folder and suffix, the title of a document that has none."""
    return PurePath(name).stem


def parse_text(name: str, data: bytes) -> ParsedDocument:
    """Parse plain text: one block; the title is the file's name."""
    text = decode(name, data)
    return ParsedDocument(
        text=text, title=stem(name), kind="text", blocks=(Block(start=0, end=len(text)),), metadata={}
    )


_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_RST_FIELD = re.compile(r":?([A-Za-z][\w-]*):[ \t]+(\S.*)$")


def parse_rst(name: str, data: bytes) -> ParsedDocument:
    """Parse reStructuredText: one block per section; the title is a `Title:` field or the first title.

    The header fields of a PEP, or a leading field list, are metadata.
    """
    text = decode(name, data)
    fields = _rst_fields(text)
    headings = list(_rst_headings(text))
    top = headings[0].text if headings and headings[0].level == 1 and "title" not in fields else ""
    title = str(fields.pop("title", "")) or top or stem(name)
    if "pep" in fields:
        title = f"PEP {fields['pep']} – {title}"  # noqa: RUF001 (the dash that PEP titles are printed with)
    blocks = sections(headings, len(text), title)
    return ParsedDocument(text=text, title=title, kind="rst", blocks=blocks, metadata=fields)


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
