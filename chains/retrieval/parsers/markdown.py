"""Markdown by a linear scan of its lines: headings (`#` and underlined), fences, front matter.

Keeps the file's own text, so that offsets count its lines; knows nothing of inline markup, which embeds and
reads well as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.headings import Heading, sections
from chains.retrieval.parsers.plain import decode, stem

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FRONT_FIELD = re.compile(r"([A-Za-z][\w-]*):[ \t]*(.*)$")


def parse_markdown(name: str, data: bytes) -> ParsedDocument:
    """Markdown: a block a heading; titled by front matter, else the first top heading, else the file name."""
    text = decode(name, data)
    front, offset = _front_matter(text)
    headings = list(_headings(text, offset))
    top = next((h.text for h in headings if h.level == 1), "")
    title = str(front.pop("title", "")) or top or stem(name)
    blocks = sections(headings, len(text), title)
    return ParsedDocument(text=text, title=title, kind="markdown", blocks=blocks, metadata=front)


def _front_matter(text: str) -> tuple[dict[str, Any], int]:
    """Scalar fields of a leading `---` block and the offset behind it."""
    if not text.startswith("---\n"):
        return {}, 0
    end = text.find("\n---", 3)
    if end < 0:
        return {}, 0
    found: dict[str, Any] = {}
    for line in text[4:end].split("\n"):
        if match := _FRONT_FIELD.match(line):
            value = match[2].strip().strip("\"'")
            if value:
                found[match[1].lower()] = value
    after = text.find("\n", end + 1)
    return found, len(text) if after < 0 else after + 1


def _headings(text: str, offset: int) -> Iterator[Heading]:
    fence = ""
    previous: tuple[int, str] | None = None  # a line that an underline would make a heading
    for start, line in _lines(text, offset):
        if match := _FENCE.match(line):
            mark = match[1]
            if not fence:
                fence = mark
            elif mark.startswith(fence) and not line.strip(" \t" + fence[0]):
                fence = ""
            previous = None
            continue
        if fence:
            continue
        if match := _ATX.match(line):
            yield Heading(start, start + len(line) + 1, len(match[1]), _plain(match[2] or ""))
            previous = None
        elif previous and (match := _SETEXT.match(line)):
            level = 1 if match[1][0] == "=" else 2
            yield Heading(previous[0], start + len(line) + 1, level, _plain(previous[1]))
            previous = None
        else:
            usable = line.strip() and not line.startswith(("    ", "\t", ">", "|", "- ", "* ", "+ "))
            previous = (start, line.strip()) if usable else None


def _lines(text: str, offset: int) -> Iterator[tuple[int, str]]:
    while offset < len(text):
        end = text.find("\n", offset)
        end = len(text) if end < 0 else end
        yield offset, text[offset:end]
        offset = end + 1


def _plain(heading: str) -> str:
    """A heading without links and emphasis marks."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[`*]+", "", heading).strip()
