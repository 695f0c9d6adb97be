"""PowerPoint: every visible slide with its number as page, its shapes in the order in which people read them.

The title comes first, then the other shapes from the top down and, side by side, from left to right. Tables,
the data of charts, SmartArt, notes and comments are read; hidden slides and shapes, slide numbers and dates
are not. python-pptx was tried first: it reads neither SmartArt nor shapes in alternative markup nor files of
the strict standard, and gives shapes in the order in which they were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.drawings import pictures_of
from chains.retrieval.parsers.equations import equation
from chains.retrieval.parsers.package import Element, Package, attribute, child, children, local, named
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import Row, add_table
from chains.retrieval.parsers.word_styles import numeral

_SHAPES = frozenset({"sp", "graphicFrame", "grpSp", "pic", "cxnSp"})
# Placeholders that repeat on every slide.
_FURNITURE = frozenset({"sldNum", "dt", "hdr"})
_TITLES = frozenset({"title", "ctrTitle"})
# Shapes whose tops differ by less stand on one line: 1/20 of an inch in English Metric Units.
_SAME_LINE = 45_720


class Box(NamedTuple):
    """Where a shape lies, in English Metric Units (914,400 to an inch)."""

    left: int
    top: int
    right: int
    bottom: int


def parse_pptx(name: str, data: bytes) -> ParsedDocument:
    """Parse PPTX, PPTM, PPSX and templates: one block per slide, its number as page, its title as heading."""
    package = Package(name, data)
    builder = DocumentBuilder(name, "pptx")
    deck = _Deck(package, builder)
    pages = deck.run()
    facts = package.facts()
    metadata = {"author": facts["author"], "date": facts["date"], "pages": pages}
    return builder.document(facts["title"] or stem(name), metadata, "no visible slide has text")


class _Deck:
    def __init__(self, package: Package, builder: DocumentBuilder) -> None:
        self._package = package
        self._builder = builder
        self._part = package.main()
        self._footers: set[str] = set()
        self._authors = {
            attribute(one, "id"): attribute(one, "name")
            for part in package.related(self._part, "commentAuthors", "authors")
            for one in named(package.optional(part), "cmAuthor", "author")
        }

    def run(self) -> int:
        """Add every visible slide and return the number of slides."""
        relations = self._package.relations(self._part)
        ids = children(child(self._package.xml(self._part), "sldIdLst"), "sldId")
        for number, one in enumerate(ids, start=1):
            relation = next((v for k, v in one.attrib.items() if k.endswith("}id")), "")
            found = relations.get(relation)
            root = self._package.optional(found.part) if found is not None else None
            if found is None or root is None:
                self._builder.leave_out(f"slide {number} could not be read")
            elif attribute(root, "show", "1") not in ("0", "false"):
                self._slide(number, found.part, root)
        return len(ids)

    def _slide(self, number: int, part: str, root: Element) -> None:
        tree = child(root, "cSld", "spTree")
        boxes = self._inherited(part)
        shapes = [] if tree is None else list(_shapes(tree))
        titles = [one for one in shapes if _placeholder(one) in _TITLES and _plain(one)]
        self._builder.page(number)
        title = " ".join(" ".join(_plain(titles[0]).split()).split()) if titles else f"Slide {number}"
        self._builder.section(title, {"slide": number})
        if titles:
            self._builder.add(title, "\n\n")
        for shape in in_reading_order([one for one in shapes if one not in titles[:1]], boxes):
            self._shape(part, shape, boxes)
        for notes in self._package.related(part, "notesSlide"):
            self._notes(self._package.optional(notes))
        for comments in self._package.related(part, "comments", "comment"):
            self._comments(self._package.optional(comments))
        self._builder.add("\n", "")

    def _inherited(self, part: str) -> dict[tuple[str, str], Box]:
        """Return where the slide's layout and master put their placeholders, by type and index."""
        found: dict[tuple[str, str], Box] = {}
        for layout in self._package.related(part, "slideLayout"):
            masters = self._package.related(layout, "slideMaster")
            for one in (*masters, layout):
                tree = child(self._package.optional(one), "cSld", "spTree")
                for shape in [] if tree is None else _shapes(tree):
                    mark = next(named(shape, "ph"), None)
                    box = _own_box(shape)
                    if mark is not None and box is not None:
                        found["type", attribute(mark, "type", "body")] = box
                        if index := attribute(mark, "idx"):
                            found["idx", index] = box
        return found

    def _shape(self, part: str, shape: Element, boxes: dict[tuple[str, str], Box]) -> None:
        kind = _placeholder(shape)
        name = local(shape)
        if kind in _FURNITURE:
            return
        if name == "grpSp":
            for one in in_reading_order(list(_shapes(shape)), boxes):
                self._shape(part, one, boxes)
        elif name == "graphicFrame":
            for table in named(shape, "tbl"):
                add_table(self._builder, table_rows(table))
            for found in pictures_of(self._package, part, shape):
                if isinstance(found, str):
                    self._builder.add(found)
                else:
                    add_table(self._builder, found)
        elif kind == "ftr":
            text = " ".join(_plain(shape).split())
            if text not in self._footers:
                self._footers.add(text)
                self._builder.add(text, "\n\n")
        else:
            self._text(child(shape, "txBody"), listed=kind in ("body", "obj"))

    def _text(self, body: Element | None, *, listed: bool) -> None:
        """Add the paragraphs of a shape; several of a body are the items of a list."""
        found = list(paragraphs(body))
        several = sum(1 for _, _, text in found if text) > 1
        for depth, label, text in found:
            if not text:
                continue
            mark = label or ("-" if listed and several and label is None else "")
            self._builder.add(f"{'  ' * depth if mark else ''}{mark} {text}".rstrip() if mark else text)
        if found:
            self._builder.add("\n", "")

    def _notes(self, root: Element | None) -> None:
        for shape in named(root, "sp"):
            if _placeholder(shape) not in ("body", "obj"):
                continue
            texts = [text for _, _, text in paragraphs(child(shape, "txBody")) if text]
            if texts:
                self._builder.add(f"Notes: {chr(10).join(texts)}", "\n\n")

    def _comments(self, root: Element | None) -> None:
        for one in named(root, "cm"):
            author = self._authors.get(attribute(one, "authorId"), "")
            text = " ".join("".join(node.text or "" for node in children(one, "text")).split())
            text = text or " ".join(t for _, _, t in paragraphs(child(one, "txBody")) if t)
            self._builder.add(f"Comment{f' by {author}' if author else ''}: {text}" if text else "")


def _shapes(tree: Element) -> Iterator[Element]:
    """Yield the visible shapes of a slide or group; of alternative markup the newest form."""
    for one in tree:
        name = local(one)
        if name == "AlternateContent":
            forms = (list(_shapes(form)) for form in one if local(form) in ("Choice", "Fallback"))
            yield from next(filter(None, forms), [])
        elif name in _SHAPES:
            about = next(named(one, "cNvPr"), None)
            if attribute(about, "hidden") not in ("1", "true"):
                yield one


def _placeholder(shape: Element) -> str:
    """Return the type of a placeholder, or "" for any other shape."""
    properties = next((one for one in shape if local(one).startswith("nv")), None)
    mark = child(child(properties, "nvPr"), "ph")
    return "" if mark is None else attribute(mark, "type", "obj")


def _plain(shape: Element) -> str:
    return "\n".join(text for _, _, text in paragraphs(child(shape, "txBody")) if text)


def _own_box(shape: Element) -> Box | None:
    transform = child(shape, "spPr", "xfrm")
    if transform is None:
        transform = child(shape, "grpSpPr", "xfrm")
    if transform is None:
        transform = child(shape, "xfrm")
    off, size = child(transform, "off"), child(transform, "ext")
    if off is None or size is None:
        return None
    left, top = int(attribute(off, "x", "0")), int(attribute(off, "y", "0"))
    return Box(left, top, left + int(attribute(size, "cx", "0")), top + int(attribute(size, "cy", "0")))


def in_reading_order(shapes: list[Element], boxes: dict[tuple[str, str], Box]) -> list[Element]:
    """Return shapes in the order in which people read them.

    The shapes are parted by the widest free stripe between them, again and again (the XY cut of Nagy and
    Seth, 1984): stripes across the slide first, so that a line of boxes is read from left to right.
    """
    placed = [(_box(shape, boxes), at) for at, shape in enumerate(shapes)]
    return [shapes[at] for at in _cut(placed)]


def _box(shape: Element, boxes: dict[tuple[str, str], Box]) -> Box:
    own = _own_box(shape)
    if own is not None:
        return own
    mark = next(named(shape, "ph"), None)
    if mark is None:
        return Box(0, 0, 0, 0)
    by_index = boxes.get(("idx", attribute(mark, "idx")))
    return by_index or boxes.get(("type", attribute(mark, "type", "body"))) or Box(0, 0, 0, 0)


def _cut(placed: list[tuple[Box, int]]) -> list[int]:
    if len(placed) < 2:
        return [at for _, at in placed]
    for low, high in ((1, 3), (0, 2)):
        groups: list[list[tuple[Box, int]]] = []
        reach = 0
        for box, at in sorted(placed, key=lambda one: (one[0][low], one[0][high], one[1])):
            if groups and box[low] < reach - _SAME_LINE:
                groups[-1].append((box, at))
            else:
                groups.append([(box, at)])
            reach = max(reach, box[high]) if len(groups[-1]) > 1 else box[high]
        if len(groups) > 1:
            return [at for group in groups for at in _cut(group)]
    return [at for _, at in sorted(placed, key=lambda one: (one[0].top, one[0].left, one[1]))]


def paragraphs(body: Element | None) -> Iterator[tuple[int, str | None, str]]:
    """Yield the paragraphs of a shape's text: depth from 0, label and text.

    The label is "-" for a bullet, a number such as "2." for a numbered item, "" for none, and None if the
    paragraph leaves it to the layout.
    """
    counts: dict[int, int] = {}
    for one in children(body, "p"):
        properties = child(one, "pPr")
        depth = int(attribute(properties, "lvl", "0") or 0)
        text = paragraph_text(one)
        label = _label(properties, depth, counts) if text else None
        yield depth, label, text


def _label(properties: Element | None, depth: int, counts: dict[int, int]) -> str | None:
    for at in [at for at in counts if at > depth]:
        del counts[at]
    automatic = child(properties, "buAutoNum")
    if automatic is None:
        counts.pop(depth, None)
        if child(properties, "buNone") is not None:
            return ""
        return "-" if child(properties, "buChar") is not None else None
    counts[depth] = counts.get(depth, int(attribute(automatic, "startAt", "1")) - 1) + 1
    style = attribute(automatic, "type", "arabicPeriod")
    known = {
        "alphaLc": "lowerLetter",
        "alphaUc": "upperLetter",
        "romanLc": "lowerRoman",
        "romanUc": "upperRoman",
    }
    number = numeral(counts[depth], next((v for k, v in known.items() if style.startswith(k)), "decimal"))
    if style.endswith("ParenBoth"):
        return f"({number})"
    return f"{number})" if style.endswith("ParenR") else f"{number}."


def paragraph_text(node: Element) -> str:
    """Return the text of one paragraph, each line without spaces at its ends."""
    parts: list[str] = []
    waiting = list(node)[::-1]
    while waiting:
        one = waiting.pop()
        name = local(one)
        if name == "r":
            parts.append("".join(t.text or "" for t in children(one, "t")))
        elif name == "br":
            parts.append("\n")
        elif name == "fld":
            kind = attribute(one, "type")
            if kind != "slidenum" and not kind.startswith("datetime"):
                parts.append("".join(t.text or "" for t in children(one, "t")))
        elif name == "AlternateContent":
            forms = [form for form in one if local(form) in ("Choice", "Fallback")]
            waiting += list(forms[0])[::-1] if forms else []
        elif name in ("m", "oMath", "oMathPara"):
            parts.append(equation(one))
    lines = "".join(parts).replace("\v", "\n").split("\n")
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def table_rows(table: Element) -> Iterator[Row]:
    """Yield the rows of a table; merged cells repeat their text."""
    above: dict[int, str] = {}
    for number, row in enumerate(children(table, "tr"), start=1):
        texts: list[str] = []
        spans: dict[int, int] = {}
        own = False
        for cell in children(row, "tc"):
            at = len(texts)
            text = " ".join(
                " ".join(text.split()) for _, _, text in paragraphs(child(cell, "txBody")) if text
            )
            if attribute(cell, "hMerge") in ("1", "true") and texts:
                text = texts[-1]
            elif attribute(cell, "vMerge") in ("1", "true"):
                text = above.get(at, "")
            else:
                own = own or bool(text)
                width = int(attribute(cell, "gridSpan", "1"))
                if width > 1:
                    spans[at] = width
            texts.append(text)
        above = {at: text for at, text in enumerate(texts) if text}
        if own:
            yield Row(number, texts, spans)
