"""HTML and XML: readable text with headings; scripts, styles and navigation left out.

lxml's HTML parser never fetches, and the XML parser resolves no entities, so that neither network nor
expansion attacks work.
"""

from __future__ import annotations

from typing import Any

from lxml import etree, html  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import EmptyDocument
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.plain import decode, stem

_HIDDEN = frozenset({"script", "style", "noscript", "template", "nav", "svg", "head", "iframe", "object"})
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_BREAKING = frozenset(
    "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form header hr li "
    "main ol p pre section table tbody tr ul".split()
)
_CELLS = frozenset({"td", "th"})


def parse_html(name: str, data: bytes) -> ParsedDocument:
    """HTML: a block a heading; titled by <title>, else the first <h1>, else the file name."""
    builder = Builder(name, "html")
    title, metadata = add_html(builder, name, data)
    return builder.document(title or stem(name), metadata)


def add_html(builder: Builder, name: str, data: bytes) -> tuple[str, dict[str, Any]]:
    """Adds a page's text to `builder`; returns its title and what its meta elements say."""
    if not data.strip():
        raise EmptyDocument(f"expected text in {name!r}, found an empty page; nothing to ingest")
    parser = html.HTMLParser(no_network=True, huge_tree=False, encoding=_declared(name, data))
    root = html.document_fromstring(data, parser=parser)
    title = " ".join((root.findtext(".//title") or "").split())
    metadata: dict[str, Any] = {}
    for meta in root.iterfind(".//meta"):
        key = (meta.get("name") or "").lower()
        if key in {"author", "date", "description", "keywords"} and meta.get("content"):
            metadata[key] = meta.get("content")
    body = root.find("body")
    _Walk(builder).run(body if body is not None else root)
    return title, metadata


def _declared(name: str, data: bytes) -> str | None:
    """UTF-8 where the bytes are; None leaves the choice to the page's own declaration."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


class _Walk:
    """One pass over the elements, without recursion: pages nest deeper than Python's stack."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._line: list[str] = []
        self._verbatim = 0

    def run(self, root: Any) -> None:
        hidden: Any = None
        for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start" and hidden is None:
                hidden = self._enter(element, tag)
            elif event == "end":
                if hidden is element:
                    hidden = None
                elif hidden is None:
                    self._leave(tag)
                if hidden is None and element is not root:
                    self._text(element.tail)
            elif event in ("comment", "pi") and hidden is None:
                self._text(element.tail)
        self._flush()

    def _enter(self, element: Any, tag: str) -> Any:
        if tag in _HIDDEN:
            return element
        if tag in _LEVELS:
            self._flush()
            self._builder.heading("".join(element.itertext()), _LEVELS[tag])
            return element
        if tag in _BREAKING:
            self._flush()
            self._line.append("- " if tag == "li" else "")
        if tag in _CELLS and "".join(self._line).strip():
            self._line.append(" | ")
        self._verbatim += tag == "pre"
        self._text(element.text)
        return None

    def _leave(self, tag: str) -> None:
        if tag in _BREAKING:
            self._flush("\n\n" if tag in {"p", "table", "pre", "ul", "ol"} else "\n")
        self._verbatim -= tag == "pre"

    def _text(self, text: str | None) -> None:
        if text:
            self._line.append(text if self._verbatim else " ".join(f"x{text}x".split())[1:-1])

    def _flush(self, end: str = "\n") -> None:
        line = "".join(self._line)
        self._line.clear()
        if line.strip(" -\n"):
            self._builder.add(line.strip("\n") if self._verbatim else line.strip(), end)


def parse_xml(name: str, data: bytes) -> ParsedDocument:
    """XML: the text of its elements, one a line, under the path of the elements that hold it."""
    decode(name, data)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(data, parser)
    builder = Builder(name, "xml")
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        tag = etree.QName(element).localname
        attributes = " ".join(
            f"{etree.QName(key).localname}={value}" for key, value in element.attrib.items()
        )
        text = " ".join((element.text or "").split())
        if text or attributes:
            builder.add(f"{tag}: {' '.join(filter(None, (attributes, text)))}")
        tail = " ".join((element.tail or "").split())
        builder.add(tail)
    return builder.document(stem(name))
