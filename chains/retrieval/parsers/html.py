"""HTML and XML: readable text with headings; scripts, styles and navigation left out.

lxml's HTML parser never fetches, and the XML parser resolves no entities, so that neither network nor
expansion attacks work.

EPUB: the book's pages in reading order.

Reads the package file for order, title and author, and each page as HTML. Pictures and styles are left out.

E-mail (.eml): the headers people search by, and the body as text.

Attachments are named, not opened; HTML bodies are read as pages where there is no plain one.
"""

from __future__ import annotations

import email
import email.policy
import posixpath
import zipfile
from email.message import EmailMessage, MIMEPart
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from lxml import etree, html  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument
from chains.retrieval.parsers.builder import Builder, check_archive
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


def parse_epub(name: str, data: bytes) -> ParsedDocument:
    """EPUB: a block a heading, in the order of the book's spine; titled by its metadata."""
    archive = check_archive(name, data)
    container = _xml(archive, "META-INF/container.xml")
    package_path = next((node.get("full-path") for node in _named(container, "rootfile")), None)
    if not package_path:
        raise DamagedDocument(f"expected an EPUB's package in {name!r}, found none; convert the book anew")
    package = _xml(archive, package_path)
    items = {node.get("id"): node.get("href") or "" for node in _named(package, "item")}
    builder = Builder(name, "epub")
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


def _page(builder: Builder, archive: zipfile.ZipFile, path: str) -> None:
    try:
        data = archive.read(path)
    except KeyError:
        return  # the package lists a page that is not there; the others are
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


def parse_eml(name: str, data: bytes) -> ParsedDocument:
    """E-mail: headers, then the body; titled by its subject, `from`, `to` and `date` as metadata."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not (
        message["from"] or message["subject"] or message["date"]
    ):
        raise DamagedDocument(
            f"expected an e-mail in {name!r}, found no From, Subject or Date; check the file"
        )
    builder = Builder(name, "eml")
    headers = {key: _header(message, key) for key in ("from", "to", "cc", "date", "subject")}
    for key, value in headers.items():
        builder.add(f"{key.capitalize()}: {value}" if value else "")
    builder.add("\n", "")
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        _body(builder, name, body)
    attachments = [part.get_filename() or "unnamed" for part in message.iter_attachments()]
    if attachments:
        builder.add(f"Attachments: {', '.join(attachments)}")
    metadata = {"from": headers["from"], "to": headers["to"], "date": _iso(headers["date"])}
    return builder.document(headers["subject"] or stem(name), metadata)


def _header(message: EmailMessage, key: str) -> str:
    try:
        return " ".join(str(message[key] or "").split())
    except (ValueError, TypeError, IndexError):
        return ""  # a header that the standard library cannot take apart


def _body(builder: Builder, name: str, body: MIMEPart) -> None:
    if body.get_content_subtype() == "html":
        payload = body.get_payload(decode=True)
        add_html(builder, name, payload if isinstance(payload, bytes) else str(payload).encode())
        return
    try:
        content = str(body.get_content())
    except (LookupError, UnicodeError):
        payload = body.get_payload(decode=True)
        content = payload.decode("latin-1") if isinstance(payload, bytes) else str(payload)
    builder.add(content.replace("\r\n", "\n").strip())


def _iso(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError):
        return date
