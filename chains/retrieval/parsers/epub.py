"""EPUB: the book's pages in reading order.

Reads the package file for order, title and author, and each page as HTML. Pictures and styles are left out.
"""

from __future__ import annotations

import posixpath
import zipfile
from typing import Any
from urllib.parse import unquote

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument, EmptyDocument
from chains.retrieval.parsers.archive import check_archive
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.html import add_html
from chains.retrieval.parsers.plain import stem


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
