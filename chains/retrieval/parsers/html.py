"""Web pages, saved web pages (MHTML) and XML, and EPUB, which contains web pages.

The XML parser fetches nothing and resolves no entities, so neither network nor expansion attacks work.
"""

from __future__ import annotations

import email
import email.policy
import posixpath
import zipfile
from typing import Any
from urllib.parse import unquote

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument
from chains.retrieval.parsers.builder import DocumentBuilder, check_archive
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.webpage import add_html

_PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml"})


def parse_html(name: str, data: bytes) -> ParsedDocument:
    """Parse HTML: one block per heading; the title is <title> or else the file name."""
    builder = DocumentBuilder(name, "html")
    title, metadata = add_html(builder, name, data)
    return builder.document(title or stem(name), metadata)


def parse_mhtml(name: str, data: bytes) -> ParsedDocument:
    """Parse a page that a browser saved with its parts: the page that the other parts belong to.

    The frames of a page of frames follow it. Pictures, styles and scripts are left out.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    pages = [part for part in message.walk() if part.get_content_type() in _PAGE_TYPES]
    start = message.get_param("start")
    pages.sort(key=lambda part: part["content-id"] != start)
    if not pages:
        raise DamagedDocument(f"expected a saved web page in {name!r}, found no HTML in it; save it anew")
    builder = DocumentBuilder(name, "mhtml")
    title = ""
    metadata: dict[str, Any] = {}
    for part in pages:
        payload = part.get_payload(decode=True)
        page = payload if isinstance(payload, bytes) else str(payload).encode()
        found, said = add_html(builder, name, page, part.get_content_charset())
        title, metadata = title or found, metadata or said
        if b"<frameset" not in pages[0].as_bytes().lower():
            break
    return builder.document(title or str(message["subject"] or "") or stem(name), metadata)


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
