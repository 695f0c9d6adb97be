"""XML by record: the elements that repeat below one parent are a line each, with the names of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.data import Leaf, record_lines, with_lines
from chains.retrieval.parsers.filelines import FileLines
from chains.retrieval.parsers.plain import stem

_MAX_DEPTH = 200


def parse_xml(name: str, data: bytes) -> ParsedDocument:
    """Parse XML: one line per record, or per element with text, with its tag, attributes and text.

    Elements with text and elements mixed (documents rather than data) are read as paragraphs. Comments are
    left out; nothing is fetched, and entities are not resolved.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise DamagedDocument(
            f"expected well-formed XML in {name!r}, found {str(error.msg)!r}; correct the file"
        ) from error
    records = _record_parents(root)
    leaves = _leaves(root, records)
    lines = max((element.sourceline or 1 for element in root.iter(etree.Element)), default=1)
    if lines < 3 and len(data) > 2000:
        builder = DocumentBuilder(name, "xml")
        for _, line in record_lines(leaves):
            builder.add(line)
        return builder.document(stem(name))
    page = FileLines(lines)
    for at, line in record_lines(leaves):
        page.put(at, line, "; ")
    return with_lines(page.document(name, "xml", stem(name)))


def _record_parents(root: Any) -> set[Any]:
    """Return the elements whose children are records: most of them have one tag, and values below them."""
    found = set()
    for element in root.iter(etree.Element):
        if len(element) < 2 or any(above in found for above in element.iterancestors()):
            continue
        tags = Counter(child.tag for child in element.iterchildren(etree.Element))
        tag, count = tags.most_common(1)[0] if tags else ("", 0)
        structured = (
            any(len(child) or len(child.attrib) > 1 for child in element.iterchildren(tag)) if tag else False
        )
        if count > 1 and structured and not _is_mixed(element):
            found.add(element)
    return found


def _is_mixed(element: Any) -> bool:
    return any((child.tail or "").strip() for child in element)


def _leaves(root: Any, records: set[Any]) -> Iterator[Leaf]:
    pending: list[tuple[Any, str, int, int]] = [(root, "", -1, 0)]
    count = 0
    while pending:
        element, path, record, depth = pending.pop()
        name = etree.QName(element).localname
        own = f"{path}.{name}" if path else name
        line = (element.sourceline or 1) - 1
        for key, value in element.attrib.items():
            if value.strip():
                yield Leaf(line, f"{own}.{etree.QName(key).localname}", " ".join(value.split()), record)
        if _is_mixed(element) or depth >= _MAX_DEPTH:
            yield Leaf(line, own, " ".join("".join(element.itertext()).split()), record)
            continue
        text = " ".join((element.text or "").split())
        if text:
            yield Leaf(line, own, text, record)
        # The names of the root and of a record say nothing of what is in them.
        inner = "" if element is root or element.getparent() in records else own
        below = []
        for child in element.iterchildren(etree.Element):
            starts = element in records
            below.append((child, "" if starts else inner, count if starts else record, depth + 1))
            count += starts
        pending.extend(reversed(below))
