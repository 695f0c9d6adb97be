"""The parts of an OpenDocument file: its body and styles, and the text of its paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.package import (
    Element,
    Package,
    attribute,
    child,
    children,
    local,
    named,
    xml_parser,
)

# Text that is written on every page by itself.
_PAGE_FIELDS = frozenset({"page-number", "page-count"})


@dataclass(slots=True)
class OpenStyle:
    """What a style says of a paragraph, list or slide."""

    parent: str = ""
    hidden: bool = False
    level: int = 0
    list_style: str = ""
    bold: bool = False


@dataclass(slots=True)
class Beside:
    """Notes, comments and drawings of a paragraph, in order."""

    notes: list[tuple[str, Element]] = field(default_factory=list)
    boxes: list[Element] = field(default_factory=list)


class OpenFile:
    """One file: `body` is its content, `styled` the parts with styles, `metadata` what it says of itself.

    Raises:
        DamagedDocument: It is locked with a password, or is of another kind.
    """

    def __init__(self, name: str, data: bytes, kind: str) -> None:
        self.package: Package | None = None
        if data.lstrip()[:1] == b"<":
            self.content = etree.fromstring(data, xml_parser())
            self.styled = [self.content]
            about = child(self.content, "meta")
        else:
            self.package = Package(name, data)
            _refuse_locked(name, self.package)
            self.content = self.package.xml("content.xml")
            styles = self.package.optional("styles.xml")
            self.styled = [one for one in (styles, self.content) if one is not None]
            about = child(self.package.optional("meta.xml"), "meta")
        self.body = child(self.content, "body", kind)
        if self.body is None:
            found = ", ".join(local(one) for one in children(self.content, "body") for one in one) or "none"
            raise DamagedDocument(f"expected a body of {kind} in {name!r}, found {found}; check its ending")
        self.styles = dict(self._read_styles())
        self.lists = {
            attribute(one, "name"): one for root in self.styled for one in named(root, "list-style")
        }
        facts = {
            local(one): " ".join((one.text or "").split()) for one in (about if about is not None else ())
        }
        self.title = facts.get("title", "")
        author = facts.get("creator") or facts.get("initial-creator", "")
        self.metadata = {"author": author, "date": facts.get("date", "")}

    def _read_styles(self) -> Iterator[tuple[str, OpenStyle]]:
        for root in self.styled:
            for one in named(root, "style"):
                text, slide = child(one, "text-properties"), child(one, "drawing-page-properties")
                level = attribute(one, "default-outline-level")
                hidden = attribute(text, "display") == "none"
                hidden = hidden or attribute(slide, "visibility") == "hidden"
                hidden = hidden or attribute(child(one, "table-properties"), "display") == "false"
                yield (
                    attribute(one, "name"),
                    OpenStyle(
                        parent=attribute(one, "parent-style-name"),
                        hidden=hidden,
                        level=int(level) if level.isdigit() else 0,
                        list_style=attribute(one, "list-style-name"),
                        bold=attribute(text, "font-weight") in ("bold", "700", "800", "900"),
                    ),
                )

    def style(self, name: str) -> OpenStyle:
        """Return a style with what it inherits."""
        found = self.styles.get(name, OpenStyle())
        merged = OpenStyle(found.parent, found.hidden, found.level, found.list_style, found.bold)
        for _ in range(50):
            above = self.styles.get(found.parent)
            if above is None:
                break
            merged.hidden = merged.hidden or above.hidden
            merged.level = merged.level or above.level
            merged.list_style = merged.list_style or above.list_style
            found = above
        return merged

    def running(self, kind: str) -> Iterator[str]:
        """Yield the texts of page headers or footers, each once and without page numbers."""
        seen: set[str] = set()
        for root in self.styled:
            for part in named(root, kind, f"{kind}-first", f"{kind}-left"):
                if attribute(part, "display") == "false":
                    continue
                for one in named(part, "p"):
                    text = self.inline(one, Beside())
                    paged = next(named(one, *_PAGE_FIELDS), None) is not None and len(text.split()) <= 4
                    if text and not paged and text not in seen:
                        seen.add(text)
                        yield text

    def inline(self, node: Element, beside: Beside) -> str:
        """Return the text of a paragraph, each line without spaces at its ends."""
        parts: list[str] = []
        self._gather(node, parts, beside)
        lines = "".join(parts).replace("\u00ad", "").split("\n")
        return "\n".join(" ".join(line.split()) for line in lines).strip()

    def _gather(self, node: Element, parts: list[str], beside: Beside) -> None:
        parts.append(node.text or "")
        for one in node:
            name = local(one)
            if name in ("s", "tab"):
                parts.append(" ")
            elif name == "line-break":
                parts.append("\n")
            elif name == "note":
                beside.notes.append((attribute(one, "note-class", "footnote").capitalize(), one))
            elif name == "annotation":
                beside.notes.append(("Comment", one))
            elif name in ("frame", "custom-shape", "text-box", "g", "rect", "ellipse", "line"):
                beside.boxes.append(one)
            elif name == "ruby":
                self._gather_of(child(one, "ruby-base"), parts, beside)
            elif not self._is_hidden(one, name):
                self._gather(one, parts, beside)
            parts.append(one.tail or "")

    def _gather_of(self, node: Element | None, parts: list[str], beside: Beside) -> None:
        if node is not None:
            self._gather(node, parts, beside)

    def _is_hidden(self, node: Element, name: str) -> bool:
        if name in ("hidden-text", "hidden-paragraph"):
            return attribute(node, "is-hidden") == "true"
        if not name or name in ("tracked-changes", "annotation-end"):
            return True
        return name == "span" and self.style(attribute(node, "style-name")).hidden


def _refuse_locked(name: str, package: Package) -> None:
    manifest = package.optional("META-INF/manifest.xml")
    if next(named(manifest, "encryption-data"), None) is not None:
        raise DamagedDocument(
            f"expected a readable document, found {name!r} locked with a password; save it without"
        )
