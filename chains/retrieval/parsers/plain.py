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


_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FRONT_FIELD = re.compile(r"([A-Za-z][\w-]*):[ \t]*(.*)$")


def parse_markdown(name: str, data: bytes) -> ParsedDocument:
    """Parse Markdown: one block per heading; the title is in the front matter, or the first top heading."""
    text = decode(name, data)
    front, offset = _front_matter(text)
    headings = list(_markdown_headings(text, offset))
    top = next((h.text for h in headings if h.level == 1), "")
    title = str(front.pop("title", "")) or top or stem(name)
    blocks = sections(headings, len(text), title)
    return ParsedDocument(text=text, title=title, kind="markdown", blocks=blocks, metadata=front)


def _front_matter(text: str) -> tuple[dict[str, Any], int]:
    """Return the scalar fields of a leading `---` block, and the offset of the text after it."""
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


def _markdown_headings(text: str, offset: int) -> Iterator[Heading]:
    fence = ""
    previous: tuple[int, str] | None = None  # a line that becomes a heading if an underline follows
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
            yield Heading(start, start + len(line) + 1, len(match[1]), _without_markup(match[2] or ""))
            previous = None
        elif previous and (match := _SETEXT.match(line)):
            level = 1 if match[1][0] == "=" else 2
            yield Heading(previous[0], start + len(line) + 1, level, _without_markup(previous[1]))
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


def _without_markup(heading: str) -> str:
    """Return a heading without links and emphasis marks."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[`*]+", "", heading).strip()


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
