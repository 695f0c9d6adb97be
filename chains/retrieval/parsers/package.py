"""Office packages (OOXML): parts, their XML and the relations between them.

Names are compared without their namespace, so that files of the strict standard, which has other namespaces
than Word, PowerPoint and Excel write by default, read the same. Nothing outside the package is opened:
external relations are left out, entities are not resolved, and libxml2 refuses elements nested deeper than
256.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import check_archive

Element = Any
"""An lxml element, whose package has no types."""


class Relation(NamedTuple):
    """A part that another part refers to: the last word of the relation's type, and the part's name."""

    kind: str
    part: str


def local(node: Element) -> str:
    """Return the name of an element without its namespace, or "" for a comment."""
    tag = node.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(node: Element | None, name: str, default: str = "") -> str:
    """Return an attribute by its name without the namespace."""
    if node is None:
        return default
    found = node.get(name)
    if found is not None:
        return str(found)
    return next((str(v) for k, v in node.attrib.items() if k.rpartition("}")[2] == name), default)


def child(node: Element | None, *path: str) -> Element | None:
    """Return the first element down a path of names, or None."""
    for name in path:
        if node is None:
            return None
        node = next((one for one in node if local(one) == name), None)
    return node


def children(node: Element | None, name: str) -> list[Element]:
    """Return the direct children with a name."""
    return [] if node is None else [one for one in node if local(one) == name]


def named(node: Element | None, *names: str) -> Iterator[Element]:
    """Yield `node` and all elements below it that have one of the names, in document order."""
    if node is not None:
        yield from (one for one in node.iter() if local(one) in names)


def is_on(node: Element | None) -> bool:
    """Return whether a switch such as `<w:vanish/>` is there and not turned off."""
    return node is not None and attribute(node, "val", "true") not in ("0", "false", "off")


def xml_parser() -> Any:
    """Return an XML parser that fetches nothing, expands nothing and refuses deep nesting."""
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_pis=True
    )


class Package:
    """The parts of one file.

    Args:
        name: The file's name, for messages.
        data: Its bytes.

    Raises:
        DamagedDocument: It is not an archive, is locked with a password, or is a decompression bomb.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._archive = check_archive(name, data)
        # Some programs write the names of parts with backslashes or in another case.
        self._names = {
            entry.filename.replace("\\", "/").lstrip("/").casefold(): entry.filename
            for entry in self._archive.infolist()
        }
        self._relations: dict[str, dict[str, Relation]] = {}

    def has(self, part: str) -> bool:
        """Return whether there is such a part."""
        return part.casefold() in self._names

    def read(self, part: str) -> bytes:
        """Return the bytes of a part; raise DamagedDocument if it is missing."""
        with self.open(part) as handle:
            return handle.read()

    def open(self, part: str) -> IO[bytes]:
        """Open a part for reading; raise DamagedDocument if it is missing."""
        try:
            return self._archive.open(self._names[part.casefold()])
        except KeyError as error:
            raise DamagedDocument(
                f"expected {part!r} in {self.name!r}, found no such part; save the document anew"
            ) from error

    def xml(self, part: str) -> Element:
        """Return the root element of a part."""
        return etree.fromstring(self.read(part), xml_parser())

    def optional(self, part: str | None) -> Element | None:
        """Return the root element of a part, or None if it is missing or cannot be read."""
        if not part or not self.has(part):
            return None
        try:
            return self.xml(part)
        except etree.XMLSyntaxError:
            return None

    def relations(self, part: str = "") -> dict[str, Relation]:
        """Return the internal relations of a part by their id; "" stands for the package itself."""
        if part not in self._relations:
            folder, base = posixpath.split(part)
            root = self.optional(posixpath.join(folder, "_rels", f"{base}.rels"))
            found: dict[str, Relation] = {}
            for node in [] if root is None else root:
                if not isinstance(node.tag, str) or attribute(node, "TargetMode") == "External":
                    continue
                target = attribute(node, "Target").replace("\\", "/")
                path = target.lstrip("/") if target.startswith("/") else posixpath.join(folder, target)
                kind = attribute(node, "Type").rpartition("/")[2]
                found[attribute(node, "Id")] = Relation(kind, posixpath.normpath(path))
            self._relations[part] = found
        return self._relations[part]

    def related(self, part: str, *kinds: str) -> list[str]:
        """Return the parts of some kinds that a part refers to."""
        return [one.part for one in self.relations(part).values() if one.kind in kinds and self.has(one.part)]

    def main(self) -> str:
        """Return the name of the main part; raise DamagedDocument if there is none."""
        for part in self.related("", "officeDocument"):
            return part
        raise DamagedDocument(
            f"expected an Office document in {self.name!r}, found an archive of other files; check its ending"
        )

    def facts(self) -> dict[str, str]:
        """Return what the file says about itself: `title`, `author` and `date`."""
        found: dict[str, str] = {}
        for part in self.related("", "core-properties"):
            for node in [] if (root := self.optional(part)) is None else root:
                if (text := " ".join((node.text or "").split())) and isinstance(node.tag, str):
                    found.setdefault(local(node), text)
        return {
            "title": found.get("title", ""),
            "author": found.get("creator", ""),
            "date": found.get("modified") or found.get("created", ""),
        }
