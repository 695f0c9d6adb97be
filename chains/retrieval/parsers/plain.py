r"""Plain text: bytes to characters, and the plain-text parser.

Knows encodings and nothing of structure. Line ends become "\n"; the text is otherwise the file's own, so
offsets count its lines.

Markdown by a linear scan of its lines: headings (`#` and underlined), fences, front matter.

Keeps the file's own text, so that offsets count its lines; knows nothing of inline markup, which embeds and
reads well as it is.

reStructuredText by a linear scan: underlined titles, the header fields of a PEP or a field list.

Keeps the file's own text, so that offsets count its lines. docutils is not used: it would lose the offsets,
and it runs directives (include, raw).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.errors import BinaryDocument, EmptyDocument
from chains.retrieval.parsers.builder import Heading, sections

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFF_BYTES = 65_536
# Classic Mac OS wrote these; in a short text they look as likely as the Windows pages that others wrote.
_FOREIGN = ["mac_cyrillic", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish", "hp_roman8"]
# Control characters that turn up in text: tab, line feed, form feed, carriage return, escape (terminal logs).
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b\x08")


def decode(name: str, data: bytes) -> str:
    """The text of `data`, its encoding detected (byte order mark, UTF-8, then charset-normalizer).

    Raises:
        EmptyDocument: there is nothing but white space.
        BinaryDocument: the bytes are no text.
    """
    text = _decode(name, data).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise EmptyDocument(
            f"expected text in {name!r}, found {len(data)} bytes of nothing; nothing to ingest"
        )
    return text


def _decode(name: str, data: bytes) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                break
    if looks_binary(data[:_SNIFF_BYTES]):
        raise BinaryDocument(
            f"expected text in {name!r}, found binary data ({data[:8]!r}…); convert it to text"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _detect(name, data)


def _detect(name: str, data: bytes) -> str:
    from charset_normalizer import from_bytes

    found = from_bytes(data[: 4 * _SNIFF_BYTES], cp_exclusion=_FOREIGN)
    best = found.best()
    western = next((match for match in found if match.encoding == "cp1252"), None)
    # A short French text looks as good in a Baltic code page; Western Europe's is the likelier one.
    if best is not None and western is not None and western.coherence >= best.coherence - 0.1:
        best = western
    if best is None:
        raise BinaryDocument(
            f"expected text in {name!r}, found bytes in no known encoding; save the file as UTF-8"
        )
    return data.decode(best.encoding, "replace")


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file hold a NUL, or more than 1 in 50 control characters."""
    if b"\0" in head:
        return True
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    return controls * 50 > max(len(head), 1)


def stem(name: str) -> str:
    """The file name without folder and suffix: the title of a document that names none."""
    return PurePath(name).stem


def parse_text(name: str, data: bytes) -> ParsedDocument:
    """Plain text: one block, titled by the file's name."""
    text = decode(name, data)
    return ParsedDocument(
        text=text, title=stem(name), kind="text", blocks=(Block(start=0, end=len(text)),), metadata={}
    )


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


_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_FIELD = re.compile(r":?([A-Za-z][\w-]*):[ \t]+(\S.*)$")


def parse_rst(name: str, data: bytes) -> ParsedDocument:
    """reStructuredText: a block a section; titled by a leading `Title:` field, else its first title."""
    text = decode(name, data)
    fields = _fields(text)
    headings = list(_headings_rst(text))
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


def _headings_rst(text: str) -> Iterator[Heading]:
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
