r"""Markdown as a reader sees it, on the lines of its file.

markdown-it-py finds the blocks with the lines they stand on. Every line of the text is what a reader sees of
that line of the file, so that a line of the text is a line of the file: comments, link addresses, badges and
the front matter leave empty lines or nothing, a row of a table names its columns, and the text of a footnote
stands below the paragraph that refers to it. Fences and indented code stay as they are. Of other dialects,
admonitions (MkDocs, MyST), links and comments of Obsidian, and tags of Jekyll and Hugo are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.decoding import decode_with_doubt
from chains.retrieval.parsers.filelines import FileLines
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import row_text

_FRONT_FIELD = re.compile(r"([A-Za-z][\w-]*)\s*[:=][ \t]*(.*)$")
_FENCE = re.compile(r"[ \t>]{0,12}(?:[-*+]|\d+[.)])?[ \t]*(`{3,}|~{3,})")
_ADMONITION = re.compile(r"([ \t]*)(?:!!!|\?\?\?\+?)[ \t]+(\w+)(?:[ \t]+\"(.*)\")?[ \t]*$")
_CONTAINER = re.compile(r"[ \t]*:{3,}[ \t]*\{?([\w-]*)\}?(.*)$")
_CALLOUT = re.compile(r"^\[!([\w-]+)\][+-]?[ \t]*")
_FOOTNOTE = re.compile(r" {0,3}\[\^([^\]\s]{1,60})\]:[ \t]*(.*)$")
_REFERENCE = re.compile(r"\[\^([^\]\s]{1,60})\]")
_TEMPLATE = re.compile(r"\{%-?.*?-?%\}|\{\{[<%].*?[>%]\}\}|\{/\*.*?\*/\}")
_WIKI_LINK = re.compile(r"(!?)\[\[([^\]|\n]+)(?:\|([^\]\n]*))?\]\]")
_ATTRIBUTES = re.compile(r"\s*\{[:#.][^{}\n]*\}[ \t]*$|[ \t]+\^[\w-]+[ \t]*$")
_HIDDEN_TAG = re.compile(
    r"<(del|s|strike|style|script|template|title)\b|<(\w+)[^>]*(?:\bhidden\b|display\s*:\s*none|visibility\s*:\s*hidden)",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?([A-Za-z][\w-]*)\b[^>]*>")


def parse_markdown(name: str, data: bytes) -> ParsedDocument:
    """Parse Markdown: one block per heading; the title is in the front matter, or the first top heading."""
    text, doubt = decode_with_doubt(name, data)
    lines = text.split("\n")
    front = take_front_matter(lines)
    page = render_markdown(lines)
    title = str(front.pop("title", "")) or page.top_heading or stem(name)
    return page.document(name, "markdown", title, front, doubt)


def take_front_matter(lines: list[str]) -> dict[str, Any]:
    """Return the fields of a leading `---` (YAML) or `+++` (TOML) block, whose lines become empty."""
    if not lines or lines[0].rstrip() not in {"---", "+++"}:
        return {}
    mark = lines[0].rstrip()
    end = next((at for at, line in enumerate(lines[1:400], 1) if line.rstrip() in {mark, "..."}), 0)
    if not end or not any(_FRONT_FIELD.match(line) for line in lines[1:end]):
        return {}
    found: dict[str, Any] = {}
    key = ""
    for line in lines[1:end]:
        if match := _FRONT_FIELD.match(line):
            key, value = match[1].lower(), match[2].strip().strip("[]").strip("\"'")
            if value and not re.fullmatch(r"[>|][+-]?", value):
                found[key] = ", ".join(part.strip().strip("\"'") for part in value.split(", ")) or value
        elif key and (more := line.strip().removeprefix("- ").strip("\"'")) and not line.startswith("#"):
            found[key] = f"{found[key]}, {more}" if key in found and line.lstrip().startswith("-") else more
    lines[: end + 1] = [""] * (end + 1)
    return found


def render_markdown(lines: Sequence[str]) -> FileLines:
    """Return what a reader sees of Markdown, line by line."""
    preparation = _Preparation()
    source = [preparation.line(line) for line in lines]
    page = MarkdownPage(source, preparation.notes)
    page.read()
    return page.page


class _InlineParser:
    """Parses blocks at once and what stands within them when it is asked for.

    The time for inline content can grow with the square of its length: 50,000 opening brackets take 0.8 s. A
    longer paragraph than `_MAX_INLINE` is therefore taken as it is.
    """

    def __init__(self) -> None:
        self._parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        self._parser.core.ruler.disable("inline")
        self._environment: dict[str, Any] = {}

    def blocks(self, source: str) -> list[Token]:
        """Return the block tokens of a document."""
        return self._parser.parse(source, self._environment)

    def lines(self, content: str) -> list[str]:
        """Return what a reader sees of inline content, one string for each of its source lines."""
        if len(content) > _MAX_INLINE:
            return content.split("\n")
        children: list[Token] = []
        self._parser.inline.parse(content, self._parser, self._environment, children)
        return inline_lines(children, content)


_MAX_INLINE = 10_000


class _Preparation:
    """Blanks what markdown-it-py does not know as it is meant, line by line, and collects the footnotes."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self._note = ""
        self._fence = ""
        self._indents: list[int] = []  # of admonitions, whose content is indented
        self._in_comment = False

    def line(self, line: str) -> str:
        """Return what the parser is to read instead of a line."""
        while self._indents and line.strip() and len(line) - len(line.lstrip()) < self._indents[-1]:
            self._indents.pop()
        if self._indents:
            width = 4 * len(self._indents)
            line = line[min(width, len(line) - len(line.lstrip())) :]
        if not self._in_comment and self._in_fence(line):
            self._note = ""
            return line
        line, self._in_comment = _uncommented(line, self._in_comment)
        line = _opened(self._footnote(line), self._indents)
        return _WIKI_LINK.sub(_wiki_text, _TEMPLATE.sub("", line))

    def _in_fence(self, line: str) -> bool:
        match = _FENCE.match(line)
        if match is None:
            return bool(self._fence)
        if not self._fence:
            self._fence = match[1]
        elif match[1].startswith(self._fence) and not line.strip(" \t>" + self._fence[0]):
            self._fence = ""
        return True

    def _footnote(self, line: str) -> str:
        if found := _FOOTNOTE.match(line):
            self._note = found[1]
            self.notes[self._note] = found[2].strip()
            return ""
        if self._note and line.startswith(("    ", "\t")):
            self.notes[self._note] = f"{self.notes[self._note]} {line.strip()}".strip()
            return ""
        if line.strip():
            self._note = ""
        return line


def _opened(line: str, indents: list[int]) -> str:
    """Return the title of an admonition instead of the line that opens it, and note its indentation."""
    if match := _ADMONITION.match(line):
        indents.append(len(match[1]) + 4)
        title = match[3] if match[3] is not None else match[2].capitalize()
        return f"{match[1]}{title}:" if title else ""
    if match := _CONTAINER.match(line):
        title = match[2].strip(" []") or match[1].capitalize()
        return f"{title}:" if title else ""
    return line


def _uncommented(line: str, in_comment: bool) -> tuple[str, bool]:
    """Return a line without comments of HTML and Obsidian, and whether one is still open at its end."""
    kept: list[str] = []
    at = 0
    while at < len(line):
        if in_comment:
            end = line.find("-->", at)
            if end < 0:
                return "".join(kept), True
            at, in_comment = end + 3, False
            continue
        start = _comment_start(line, at)
        kept.append(line[at:start])
        in_comment = start < len(line)
        at = start + 4
    cleaned = "".join(kept)
    return (re.sub(r"%%[^%\n]+%%", "", cleaned) if "%%" in cleaned else cleaned), in_comment


def _comment_start(line: str, at: int) -> int:
    """Return where a comment begins outside inline code, or the line's length."""
    start = line.find("<!--", at)
    while start >= 0 and line.count("`", 0, start) % 2:
        start = line.find("<!--", start + 4)
    return len(line) if start < 0 else start


def _wiki_text(match: re.Match[str]) -> str:
    return "" if match[1] else match[3] or match[2].replace("#", ", ")


class MarkdownPage:
    """The text of a page line by line, after `read`."""

    def __init__(self, source: Sequence[str], notes: dict[str, str]) -> None:
        self._source = source
        self._notes = notes
        self._inline = _InlineParser()
        self._lists: list[int | None] = []
        self._marker = ""
        self.page = FileLines(len(source))

    def read(self) -> None:
        """Read the source."""
        tokens = self._inline.blocks("\n".join(self._source) + "\n")
        table: list[list[tuple[int, str]]] = []
        for token, before in zip(tokens, (None, *tokens), strict=False):
            kind = token.type
            first, last = token.map or (0, 0)
            if kind == "inline" and before is not None and before.type == "heading_open":
                self._heading(token, int(before.tag[1]), *(before.map or [0, 0]))
            elif kind == "inline" and table:
                table[-1].append((first, " ".join(self._inline.lines(token.content))))
            elif kind == "inline":
                self._paragraph(token)
            elif kind in {"fence", "code_block"}:
                self.page.lines[first:last] = self._source[first:last]
            elif kind == "html_block":
                self._html(first, last, token.content)
            elif kind == "tr_open":
                table.append([])
            elif kind == "table_close":
                self._table(table)
                table = []
            else:
                self._list(token)

    def _list(self, token: Token) -> None:
        kind = token.type
        if kind == "ordered_list_open":
            self._lists.append(int(token.attrGet("start") or 1))
        elif kind == "bullet_list_open":
            self._lists.append(None)
        elif kind in {"ordered_list_close", "bullet_list_close"}:
            self._lists.pop()
            self._marker = ""
        elif kind == "list_item_open":
            number = self._lists[-1]
            self._marker = "- " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1

    def _heading(self, token: Token, level: int, first: int, last: int) -> None:
        text = " ".join(" ".join(self._inline.lines(token.content)).split())
        text = _ATTRIBUTES.sub("", text).strip()
        if text:
            self.page.heading(first, last, level, text)
            self.page.put(first, f"{'#' * level} {text}")

    def _paragraph(self, token: Token) -> None:
        first, last = token.map or (0, 0)
        indent = "  " * (len(self._lists) - 1) if self._lists else ""
        hang = f"{indent}  " if self._lists else ""
        content = self._inline.lines(token.content)
        for offset, line in enumerate(content):
            line = (
                _CALLOUT.sub(lambda match: f"{match[1].capitalize()}: ", line).strip() if not offset else line
            )
            line = _ATTRIBUTES.sub("", line).strip()
            at = min(first + offset, last - 1)
            if line:
                lead = f"{indent}{self._marker}" if self._marker else hang
                self._marker = ""
                self.page.put(at, f"{lead}{line}" if not self.page.lines[at] else line)
        called = [self._notes[name] for name in _REFERENCE.findall(token.content) if name in self._notes]
        if called and last > first:
            notes = " ".join(" ".join(self._inline.lines(note)) for note in called)
            self.page.put(last - 1, notes)

    def _html(self, first: int, last: int, content: str) -> None:
        """Add what is seen of a block of HTML, from its first line on."""
        seen = [line for line in _html_text(content).split("\n") if line.strip()]
        for offset, line in enumerate(seen):
            self.page.put(min(first + offset, last - 1), line)

    def _table(self, rows: list[list[tuple[int, str]]]) -> None:
        if not rows or not rows[0]:
            return
        names = [text for _, text in rows[0]]
        if len(rows) == 1:
            self.page.put(rows[0][0][0], " | ".join(names))
        for row in rows[1:]:
            if row and (line := row_text(names, [text for _, text in row])):
                self.page.put(row[0][0], line)


def inline_lines(children: Sequence[Token], content: str) -> list[str]:
    """Return the text that a reader sees of inline content, one string for each of its source lines."""
    lines: list[list[str]] = [[]]
    hidden = 0
    tag = ""
    for token in children:
        kind = token.type
        if kind in {"softbreak", "hardbreak"}:
            lines.append([])
        elif kind == "html_inline":
            tag, hidden = _hidden_html(token.content, tag, hidden)
            if token.content.lower().startswith("<br"):
                lines[-1].append(" ")
        elif kind == "s_open":
            hidden += 1
        elif kind == "s_close":
            hidden -= 1
        elif not hidden:
            lines[-1].extend(_inline(token))
    found = [" ".join("".join(line).split()) for line in lines]
    # A link or code span over several lines has no break of its own.
    return found + [""] * max(0, content.count("\n") + 1 - len(found))


def _inline(token: Token) -> Iterator[str]:
    if token.type in {"text", "text_special"}:
        yield re.sub(r"==([^=\n]+)==", r"\1", _REFERENCE.sub("", token.content))
    elif token.type == "code_inline":
        yield token.content
    elif token.type == "image" and len(token.content.split()) >= 3:
        yield f"(picture: {token.content})"


def _hidden_html(markup: str, tag: str, hidden: int) -> tuple[str, int]:
    """Return the tag that hides what follows, and how deep it is nested, after an inline tag."""
    if hidden and tag:
        match = _TAG.match(markup)
        if match and match[1].lower() == tag and not markup.endswith("/>"):
            hidden += -1 if markup.startswith("</") else 1
        return (tag, hidden) if hidden else ("", 0)
    if match := _HIDDEN_TAG.match(markup):
        return (match[1] or match[2]).lower(), hidden + 1
    return tag, hidden


def _html_text(content: str) -> str:
    """Return what is seen of a piece of HTML in Markdown; a piece of tags alone shows nothing."""
    if not _TAG.sub("", content).strip() and "<img" not in content:
        return ""
    from chains.retrieval.parsers.webpage import fragment_text

    return fragment_text(content)
