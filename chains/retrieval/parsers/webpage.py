"""The text of a web page as a reader sees it: headings, paragraphs, lists, tables row by row, code.

`add_html` is for every format that contains HTML (pages, EPUB, mail, saved pages). lxml's parser fetches
nothing and resolves no entities of others. The code is our own because rows keep the names of their columns
here; trafilatura and readability, which look for the article of a page, were not measured against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

from lxml import etree, html  # type: ignore[import-untyped]

from chains.retrieval.errors import EmptyDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.tables import Row, render
from chains.retrieval.parsers.visible import Visibility

_LEVELS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    "address article aside blockquote body br button caption center dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form frameset header hgroup hr label legend li main menu ol optgroup option p "
    "pre search section select summary table tbody td textarea tfoot th thead tr ul xmp".split()
)
_SPACED = frozenset(
    "article blockquote details dl fieldset figure form ol p pre section select table textarea ul xmp".split()
)
_VERBATIM = frozenset({"pre", "textarea", "xmp", "listing"})
_LISTS = frozenset({"ol", "ul", "menu", "dir"})
_MAX_COLUMNS = 500
# A cell with more text than this, or with these elements, belongs to a table that only arranges the page.
_CELL_CHARS = 1500
_LAYOUT = frozenset({"table", "h1", "h2", "h3", "pre", "form", "section", "article"})
_EDIT = re.compile(r"\s*(?:\[\s*edit[^\]]*\]|[\u00b6\u00a7#\U0001f517])\s*$", re.IGNORECASE)
_META = {
    "author": "author",
    "date": "date",
    "description": "description",
    "keywords": "keywords",
    "article:published_time": "date",
    "article:author": "author",
}
_XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)["']""")
_META_CHARSET = re.compile(rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_SNIFF_BYTES = 4096


class TextSink(Protocol):
    """Takes the lines of a page; a `DocumentBuilder` is one."""

    def add(self, piece: str, end: str = "\n") -> None:
        """Take a line of text."""

    def heading(self, text: str, level: int) -> None:
        """Take a heading."""


def add_html(
    builder: DocumentBuilder, name: str, data: bytes, charset: str | None = None
) -> tuple[str, dict[str, Any]]:
    r"""Add a page's text to `builder`; return its title and what its meta elements say (author, date).

    Args:
        builder: Takes headings and text.
        name: The page's name, for messages.
        data: The page.
        charset: The encoding that the page came with, such as that of a MIME header.

    Raises:
        EmptyDocument: The page is empty.

    >>> builder = DocumentBuilder("page", "html")
    >>> add_html(builder, "page", b"<title>Tea</title><h1>Tea</h1><p>At four.<p hidden>No.")
    ('Tea', {})
    >>> builder.document("Tea").text
    'Tea\n\nAt four.\n'
    """
    if not data.strip():
        raise EmptyDocument(f"expected text in {name!r}, found an empty page; nothing to ingest")
    root = parse_page(decode(name, data, charset or declared_charset(data)))
    if root is None:
        raise EmptyDocument(f"expected text in {name!r}, found no elements; nothing to ingest")
    if _depth_exceeded(root):
        builder.leave_out("elements are nested too deep, so that what follows them was not read")
    metadata: dict[str, Any] = {}
    for meta in root.iter("meta"):
        key = _META.get((meta.get("name") or meta.get("property") or "").lower())
        if key and meta.get("content"):
            metadata.setdefault(key, meta.get("content"))
    titles = (title for title in root.iter("title") if next(title.iterancestors("svg"), None) is None)
    title = " ".join((next(titles, root).text or "").split()) if root.tag != "title" else ""
    body = root.find("body")
    PageWalker(builder, Visibility(root)).walk(body if body is not None else root)
    return title, metadata


def parse_page(text: str) -> Any:
    """Return the root element of a page, or None if it has no elements."""
    text = _XML_DECLARATION.sub("", text, count=1).replace("\0", "\ufffd")
    parser = html.HTMLParser(no_network=True, huge_tree=True, encoding="utf-8")
    try:
        root = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:
        return None
    for element in root.iter(etree.Element):
        if not element.tag.isalnum():  # a name space, or a bracket in the text that looked like an element
            element.tag = (
                re.sub(r"[^\w-]|^[\d-]+", "", element.tag.rpartition("}")[2].rpartition(":")[2]) or "span"
            )
    return root


def declared_charset(data: bytes) -> str | None:
    """Return the encoding that a page names in its XML declaration or a meta element, or None."""
    head = data[:_SNIFF_BYTES]
    match = _XML_ENCODING.search(head) or _META_CHARSET.search(head)
    return match[1].decode("ascii", "replace") if match else None


_MAX_DEPTH = 2040


def _depth_exceeded(root: Any) -> bool:
    """Whether the tree is as deep as libxml2 makes one, which drops what is below and after."""
    element, depth = root, 0
    while len(element) and depth < _MAX_DEPTH:
        element, depth = element[-1], depth + 1
    return depth >= _MAX_DEPTH


class PageWalker:
    """One pass over the elements, without recursion because pages may nest deeper than Python's stack."""

    def __init__(self, sink: TextSink, visibility: Visibility) -> None:
        self._sink = sink
        self._seen = visibility
        self._line: list[str] = []
        self._verbatim = 0
        self._heading: Any = None
        self._gap = False
        self._prefix = ""
        self._lists: list[int | None] = []
        self._terms: list[str] = []
        self._defined = False
        self._quiet = True

    def walk(self, root: Any) -> None:
        """Give the text of `root`, which is visible itself, to the sink."""
        walker = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
        skipped: Any = None
        for event, element in walker:
            if event == "start":
                if (element is not root and self._seen.hides(element)) or self._whole(element):
                    skipped = element
                    walker.skip_subtree()
                else:
                    self._enter(element)
            elif event == "end":
                if skipped is element:
                    skipped = None
                else:
                    self._leave(element)
                if element is not root:
                    self._text(element.tail)
            elif element is not root:
                self._text(element.tail)
        self._flush()

    def _whole(self, element: Any) -> bool:
        """Add an element that is read as a whole: a table of data, a picture, a field of a form."""
        tag = element.tag
        if tag == "table" and (rows := table_rows(element, self._seen)):
            self._flush()
            self._space()
            caption = element.find("caption")
            if caption is not None and not self._seen.hides(caption):
                self._put(flat_text(caption, self._seen))
            for line in render(rows):
                self._put(line.text)
            self._space()
            return True
        if tag == "img":
            self._text(_alternative(element))
            return True
        if tag == "input":
            self._text(_field(element))
            return True
        return False

    def _enter(self, element: Any) -> None:
        tag = element.tag
        if tag in _LEVELS and self._heading is None:
            self._flush()
            self._heading = element
        elif tag in _BLOCKS or _displayed_as_block(element):
            self._flush()
            self._begin(element, tag)
        elif tag == "q":
            self._line.append("\u201c")
        elif tag in {"td", "th"}:
            self._flush()
        self._verbatim += tag in _VERBATIM
        self._text(_raised(element) if tag == "sup" else element.text)

    def _begin(self, element: Any, tag: str) -> None:
        if tag in _SPACED:
            self._space()
        if tag in _LISTS:
            start = element.get("start") or "1"
            self._lists.append(int(start) if tag == "ol" and start.isdecimal() and len(start) < 9 else None)
        elif tag == "li":
            self._prefix = self._bullet()
        elif tag == "option":
            self._prefix = "- "
        elif tag == "dd" and self._terms:
            self._prefix = f"{', '.join(self._terms)}: "

    def _bullet(self) -> str:
        indent = "  " * max(len(self._lists) - 1, 0)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number}. "

    def _leave(self, element: Any) -> None:
        tag = element.tag
        if element is self._heading:
            self._gap, self._quiet, self._heading = False, True, None
            self._sink.heading(_EDIT.sub("", self._taken()), _LEVELS[tag])
        elif tag == "dt":
            if self._defined:
                self._terms, self._defined = [], False
            if term := self._taken():
                self._terms.append(term.rstrip(": "))
        elif tag == "dd":
            self._define()
        elif tag in _BLOCKS or _displayed_as_block(element):
            self._end(tag)
        elif tag == "q":
            self._line.append("\u201d")
        elif tag == "a":
            self._address(element)
        self._verbatim -= tag in _VERBATIM

    def _end(self, tag: str) -> None:
        self._flush()
        if tag == "dl":
            self._terms, self._defined = [], False
        elif tag == "li":
            self._prefix = ""
        if tag in _LISTS and self._lists:
            self._lists.pop()
        if tag in _SPACED:
            self._space()

    def _taken(self) -> str:
        """Return the open line and begin another."""
        line = _squeezed("".join(self._line))
        self._line.clear()
        return line

    def _define(self) -> None:
        """End a definition, which may be empty."""
        self._flush()
        if self._prefix and not self._defined:
            self._put(self._prefix.rstrip(": "))
        self._prefix, self._defined = "", True

    def _address(self, link: Any) -> None:
        """Add the address of a link to a mailbox or telephone, unless the text has it."""
        scheme, _, address = (link.get("href") or "").partition(":")
        address = address.partition("?")[0]
        if scheme.lower() in {"mailto", "tel"} and address and len(address) < 100:
            digits = re.sub(r"\D", "", address) if scheme.lower() == "tel" else ""
            text = "".join(self._line)
            if address not in text and not (digits and digits[-5:] in re.sub(r"\D", "", text)):
                self._line.append(f" ({address})")

    def _text(self, text: str | None) -> None:
        if text:
            self._line.append(text if self._verbatim else " ".join(f"x{text}x".split())[1:-1])

    def _flush(self) -> None:
        line = "".join(self._line)
        self._line.clear()
        if self._heading is not None:
            self._line.append(f"{line} ")  # a break within a heading
            return
        if not line.strip():
            return
        if self._verbatim:
            self._put(line.strip("\n"))
            return
        for number, piece in enumerate(filter(None, map(_squeezed, line.split("\n")))):
            prefix, self._prefix = self._prefix, ""
            indent = "" if prefix or number or not self._lists else "  " * len(self._lists)
            self._put(f"{indent}{prefix}{piece}")

    def _put(self, line: str) -> None:
        if self._gap and not self._quiet:
            self._sink.add("\n", "")
        self._gap = False
        self._quiet = False
        self._sink.add(line)

    def _space(self) -> None:
        """Leave a blank line before what follows, unless it is an item of a list."""
        self._gap = self._gap or not self._lists


def _squeezed(line: str) -> str:
    return " ".join(line.split())


_RAISED = str.maketrans("0123456789+-", "\u2070\xb9\xb2\xb3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b")


def _raised(element: Any) -> str:
    """Return the text of a superscript; a number becomes one, so that 10 to the 6th does not read 106."""
    text = element.text or ""
    return text.translate(_RAISED) if re.fullmatch(r"\s*[+-]?\d{1,3}\s*", text) else text


def _displayed_as_block(element: Any) -> bool:
    style = element.get("style")
    return bool(style and re.search(r"display\s*:\s*(?:block|flex|grid|table|list-item|inline-block)", style))


def _alternative(image: Any) -> str:
    """Return the words that stand for a picture, if they say something."""
    words = " ".join((image.get("alt") or "").split())
    if not words or image.get("role") == "presentation":
        return ""
    if re.search(r"\bmath|\btex\b|latex", image.get("class") or "") or image.get("data-latex"):
        return words
    named = re.search(r"\.(?:png|jpe?g|gif|svg|webp)$", words, re.IGNORECASE)
    figure = next(image.iterancestors("figure"), None)
    captioned = figure is not None and figure.find(".//figcaption") is not None
    return "" if named or captioned or len(words.split()) < 3 else f" (picture: {words}) "


def _field(field: Any) -> str:
    """Return what a field of a form shows."""
    kind = (field.get("type") or "text").lower()
    if kind in {"checkbox", "radio"}:
        return " [x] " if field.get("checked") is not None else " [ ] "
    if kind in {"hidden", "password", "file", "image", "submit", "reset", "button", "search"}:
        return ""
    return f" {field.get('value') or ''} "


# Tables -----------------------------------------------------------------------------------------------------


class _Lines:
    """Collects the lines of a cell."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, piece: str, end: str = "\n") -> None:
        self.lines.append(piece)

    def heading(self, text: str, level: int) -> None:
        self.lines.append(text)


def flat_text(element: Any, visibility: Visibility) -> str:
    """Return the visible text of an element on one line."""
    lines = _Lines()
    PageWalker(lines, visibility).walk(element)
    return " ".join(" ".join(lines.lines).split())


def table_rows(table: Any, visibility: Visibility) -> list[Row]:
    """Return the rows of a table of data, with merged cells repeated; none for one that arranges a page."""
    if (table.get("role") or "").lower() in {"presentation", "none"}:
        return []
    if any(element.tag in _LAYOUT for element in table.iterdescendants(etree.Element)):
        return []
    rows: list[Row] = []
    reach: dict[int, tuple[int, str]] = {}  # columns that a cell of a row above covers: rows left, its text
    for number, (line, head) in enumerate(_lines_of(table), start=1):
        if visibility.hides(line):
            continue
        cells, spans, header = _cells(line, reach, visibility)
        if any(len(cell) > _CELL_CHARS for cell in cells):
            return []
        if cells:
            rows.append(Row(number, cells, spans, header=head or header, bold=head or header))
    width = max((len(row.cells) for row in rows), default=0)
    if width < 2:
        return []
    height = next((at for at, row in enumerate(rows) if not row.header), len(rows))
    if 1 < height < len(rows):
        rows[:height] = [_joined_header(rows[:height], width)]
    return [
        Row(row.number, [*row.cells, *[""] * (width - len(row.cells))], row.spans, row.header, row.bold)
        for row in rows
    ]


def _joined_header(rows: list[Row], width: int) -> Row:
    """Return one header for the rows that head a table, in which the names of groups come first."""
    names = []
    for at in range(width):
        parts = [row.cells[at] for row in rows if at < len(row.cells) and row.cells[at]]
        names.append(" ".join(dict.fromkeys(parts)))
    return Row(rows[-1].number, names, {}, header=True, bold=True)


def _lines_of(table: Any) -> Iterator[tuple[Any, bool]]:
    for line in table.iter("tr"):
        yield line, line.getparent().tag == "thead"


def _cells(
    line: Any, reach: dict[int, tuple[int, str]], visibility: Visibility
) -> tuple[list[str], dict[int, int], bool]:
    cells: list[str] = []
    spans: dict[int, int] = {}
    kinds: list[bool] = []

    def covered() -> None:
        while len(cells) in reach and len(cells) < _MAX_COLUMNS:
            left, text = reach.pop(len(cells))
            if left > 1:
                pending[len(cells)] = (left - 1, text)
            cells.append(text)

    pending: dict[int, tuple[int, str]] = {}
    for cell in line.iterchildren("td", "th"):
        covered()
        if visibility.hides(cell) or len(cells) >= _MAX_COLUMNS:
            continue
        text = flat_text(cell, visibility)
        kinds.append(cell.tag == "th")
        wide = min(_span(cell, "colspan"), _MAX_COLUMNS - len(cells))
        if wide > 1:
            spans[len(cells)] = wide
        for _ in range(wide):
            if (rows := _span(cell, "rowspan")) > 1:
                pending[len(cells)] = (rows - 1, text)
            cells.append(text)
    covered()
    reach.update(pending)
    return cells, spans, bool(kinds) and all(kinds) and len(kinds) > 1


def _span(cell: Any, name: str) -> int:
    value = (cell.get(name) or "1").strip()
    return max(1, int(value)) if value.isdecimal() and len(value) < 6 else 1


def fragment_text(markup: str) -> str:
    """Return the visible text of a piece of a page, a line for each of its blocks."""
    root = parse_page(markup)
    if root is None:
        return ""
    lines = _Lines()
    PageWalker(lines, Visibility(root)).walk(root)
    return "\n".join(line for line in lines.lines if line.strip())
