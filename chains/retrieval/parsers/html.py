"""HTML and XML, and EPUB, which contains HTML.

Scripts, styles, navigation and pictures are left out. lxml's HTML parser fetches nothing and the XML parser
resolves no entities, so neither network nor expansion attacks work.
"""

from __future__ import annotations

import posixpath
import zipfile
from typing import Any
from urllib.parse import unquote

from lxml import etree, html  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument
from chains.retrieval.parsers.builder import DocumentBuilder, check_archive
from chains.retrieval.parsers.plain import decode, stem

_HIDDEN = frozenset({"script", "style", "noscript", "template", "nav", "svg", "head", "iframe", "object"})
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_BREAKING = frozenset(
    "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form header hr li "
    "main ol p pre section table tbody tr ul".split()
)
_CELLS = frozenset({"td", "th"})


def parse_html(name: str, data: bytes) -> ParsedDocument:
    """Parse HTML: one block per heading; the title is <title> or else the file name."""
    builder = DocumentBuilder(name, "html")
    title, metadata = add_html(builder, name, data)
    return builder.document(title or stem(name), metadata)


def add_html(builder: DocumentBuilder, name: str, data: bytes) -> tuple[str, dict[str, Any]]:
    """Add a page's text to `builder`; return its title and the content of its meta elements."""
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
    _HtmlWalker(builder).run(body if body is not None else root)
    return title, metadata


def _declared(name: str, data: bytes) -> str | None:
    """Return "utf-8" if the bytes are UTF-8; otherwise None, so that the page's own declaration counts."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


class _HtmlWalker:
    """One pass over the elements, without recursion because pages may nest deeper than Python's stack."""

    def __init__(self, builder: DocumentBuilder) -> None:
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
    """Parse XML: one line per element, with its tag, attributes and text."""
    decode(name, data)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(data, parser)
    builder = DocumentBuilder(name, "xml")
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


def parse_epub(name: str, data: bytes) -> ParsedDocument:
    """Parse EPUB: one block per heading, in the order of the book's spine; the title is in its metadata."""
    archive = check_archive(name, data)
    container = _xml(archive, "META-INF/container.xml")
    package_path = next((node.get("full-path") for node in _named(container, "rootfile")), None)
    if not package_path:
        raise DamagedDocument(f"expected an EPUB's package in {name!r}, found none; convert the book anew")
    package = _xml(archive, package_path)
    items = {node.get("id"): node.get("href") or "" for node in _named(package, "item")}
    builder = DocumentBuilder(name, "epub")
    for reference in _named(package, "itemref"):
        href = items.get(reference.get("idref"))
        if href:
            _page(
                builder,
                archive,
                posixpath.normpath(posixpath.join(posixpath.dirname(package_path), unquote(href))),
            )
    facts = {
        key: next((_content(n) for n in _named(package, key)), "") for key in ("title", "creator", "date")
    }
    return builder.document(facts["title"] or stem(name), {"author": facts["creator"], "date": facts["date"]})


def _page(builder: DocumentBuilder, archive: zipfile.ZipFile, path: str) -> None:
    try:
        data = archive.read(path)
    except KeyError:
        return  # the package lists a page that is missing; the others are read
    try:
        add_html(builder, path, data)
    except (EmptyDocument, etree.ParserError):
        return
    builder.add("\n", "")


def _xml(archive: zipfile.ZipFile, path: str) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        root = etree.fromstring(archive.read(path), parser)
    except KeyError as error:
        raise DamagedDocument(f"expected {path!r} in an EPUB, found none; convert the book anew") from error
    if root is None:
        raise DamagedDocument(f"expected XML in {path!r}, found none; convert the book anew")
    return root


def _named(root: Any, name: str) -> list[Any]:
    return [node for node in root.iter() if isinstance(node.tag, str) and etree.QName(node).localname == name]


def _content(node: Any) -> str:
    return " ".join((node.text or "").split())
