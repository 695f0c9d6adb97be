"""Word: what a reader sees when the document is opened with all changes accepted.

Inserted and moved text, content controls, fields, links, smart tags, text boxes, nested tables, equations and
the numbers of lists are read; deleted and hidden text and the instructions of fields are not. Notes and
comments follow the paragraph that they belong to. Page headers stand once at the start, footers once at the
end. Of a table of contents nothing is kept, because it repeats the headings.

Four libraries were tried on eleven files with 23 facts in markup that is often lost: docx2python 3.7 gave 21
of them, pandoc 3 and mammoth 1.13 gave 20, python-docx 1.2 gave 10; all of them keep hidden text.
None tells to which heading or row a text belongs, so the document's XML is walked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import SourceError
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.drawings import pictures_of
from chains.retrieval.parsers.equations import equation
from chains.retrieval.parsers.package import Element, Package, attribute, child, children, is_on, local, named
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import Row, add_table
from chains.retrieval.parsers.word_styles import Numbering, ParagraphStyle, Styles, outline_level

_WRAPPERS = frozenset({"ins", "moveTo", "smartTag", "customXml", "hyperlink", "dir", "bdo", "sdtContent"})
_REMOVED = frozenset({"del", "moveFrom"})
# Fields whose result is a page's number, which says nothing outside the page.
_PAGE_FIELDS = frozenset({"PAGE", "NUMPAGES", "SECTIONPAGES"})
# Wingdings that forms and lists use; other characters of private fonts are left out.
_SYMBOLS = {0xFE: "☑", 0xFD: "☒", 0xA8: "☐", 0x6F: "☐", 0xFC: "✓", 0xFB: "✗", 0xE0: "→", 0xB7: "•", 0xA7: "•"}
_MARKS = {"tab": " ", "ptab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
# Documents that are inserted into each other as a whole.
_MOST_INSERTED = 3


@dataclass(slots=True)
class _Inline:
    """The text of one paragraph, and what stands beside it."""

    pieces: list[str] = field(default_factory=list)
    boxes: list[Element] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    drawings: list[Element] = field(default_factory=list)
    numbered_page: bool = False
    plain: bool = False  # a run is not bold

    @property
    def text(self) -> str:
        """The text, each line without spaces at its ends."""
        lines = "".join(self.pieces).replace("\u00ad", "").split("\n")
        return "\n".join(" ".join(line.split()) for line in lines).strip()

    @property
    def beside(self) -> bool:
        """Whether something stands beside the text."""
        return bool(self.boxes or self.notes or self.drawings)


@dataclass(slots=True)
class _Field:
    instruction: str = ""
    shows: bool = False

    @property
    def kind(self) -> str:
        return (self.instruction.split() or [""])[0].upper()


def parse_docx(name: str, data: bytes) -> ParsedDocument:
    """Parse DOCX, DOCM and templates: one block per heading; tables as one line per row, `column: value`."""
    package = Package(name, data)
    builder = DocumentBuilder(name, "docx")
    reader = _Word(package, builder)
    reader.run()
    if reader.changes:
        builder.note(f"changes are pending ({reader.changes} tracked); read as if all were accepted")
    facts = package.facts()
    metadata = {"author": facts["author"], "date": facts["date"]}
    return builder.document(facts["title"] or reader.title or stem(name), metadata)


class _Word:
    """One document on its way into a builder."""

    def __init__(self, package: Package, builder: DocumentBuilder, inserted: int = 0) -> None:
        self._package = package
        self._builder = builder
        self._inserted = inserted
        self._part = self._main = package.main()
        self._styles = Styles(self._one("styles"))
        self._numbering = Numbering(self._one("numbering"))
        self._notes = {
            (kind, attribute(one, "id")): one
            for kind in ("footnote", "endnote", "comment")
            for one in named(self._one(f"{kind}s"), kind)
            if attribute(one, "type") not in ("separator", "continuationSeparator", "continuationNotice")
        }
        self._written: set[tuple[str, str]] = set()
        self._fields: list[_Field] = []
        self._carried = ""
        self._in_list = False
        self.title = ""
        self.changes = 0

    def _one(self, kind: str) -> Element | None:
        parts = self._package.related(self._main, kind)
        return self._package.optional(parts[0]) if parts else None

    def run(self) -> None:
        """Add page headers, the body and page footers."""
        body = child(self._package.xml(self._part), "body")
        if body is None:
            return
        if not self._inserted:
            self._running(body, "header")
        self._blocks(body)
        self._flush()
        if not self._inserted:
            self._running(body, "footer")

    def _running(self, body: Element, kind: str) -> None:
        """Add the headers or footers that some page shows, each text once."""
        both = child(self._one("settings"), "evenAndOddHeaders")
        seen: set[str] = set()
        first = True
        for section in named(body, "sectPr"):
            shown = {"default", *(["even"] if is_on(both) else [])}
            shown |= {"first"} if is_on(child(section, "titlePg")) else set()
            for reference in children(section, f"{kind}Reference"):
                target = self._package.relations(self._main).get(attribute(reference, "id"))
                if attribute(reference, "type", "default") not in shown or target is None:
                    continue
                self._part = target.part
                root = self._package.optional(target.part)
                for inline in self._paragraphs(root):
                    if inline.numbered_page and len(inline.text.split()) <= 4:
                        continue
                    for text in (inline.text, *(t.text for b in inline.boxes for t in self._paragraphs(b))):
                        if text and text not in seen:
                            if first and kind == "footer":
                                self._builder.section("")
                            first = False
                            seen.add(text)
                            self._builder.add(text, "\n\n")
                self._part = self._main

    def _paragraphs(self, root: Element | None) -> Iterator[_Inline]:
        for node in named(root, "p"):
            if not any(local(above) == "txbxContent" for above in node.iterancestors() if above is not root):
                yield self._inline(node)

    # Blocks.

    def _blocks(self, node: Element) -> None:
        for one in node:
            name = local(one)
            if name == "p":
                self._paragraph(one)
            elif name == "tbl":
                self._flush()
                self._table(one)
            elif name == "sdt":
                if not _is_contents(one):
                    self._blocks_of(child(one, "sdtContent"))
            elif name == "altChunk":
                self._flush()
                self._chunk(attribute(one, "id"))
            elif name in ("oMath", "oMathPara"):
                self._builder.add(equation(one), "\n\n")
            else:
                self._blocks_of(self._inside(one, name))

    def _inside(self, node: Element, name: str) -> Element | None:
        """Return the element whose content is shown for a wrapper, or None; count what is a change."""
        if name in _REMOVED:
            self.changes += 1
            return None
        if name == "AlternateContent":
            return _alternative(node)
        self.changes += name in ("ins", "moveTo")
        return node if name in _WRAPPERS else None

    def _blocks_of(self, node: Element | None) -> None:
        if node is not None:
            self._blocks(node)

    def _paragraph(self, node: Element) -> None:
        properties = child(node, "pPr")
        style = self._style(properties)
        if style.name.casefold().startswith("toc ") and style.name[4:].isdigit():
            return
        inline = self._inline(node, style.hidden)
        mark = child(properties, "rPr")
        removed = any(child(mark, name) is not None for name in ("del", "moveFrom"))
        self.changes += any(child(mark, name) is not None for name in ("ins", "del"))
        text = f"{self._carried}{inline.text}"
        self._carried = ""
        if removed:  # without its mark, a paragraph runs on into the next one
            self._carried = f"{text} " if text else ""
        else:
            self._write(text, properties, style)
        self._beside(inline)

    def _flush(self) -> None:
        text, self._carried = self._carried.strip(), ""
        self._builder.add(text, "\n\n")

    def _style(self, properties: Element | None) -> ParagraphStyle:
        return self._styles.get(attribute(child(properties, "pStyle"), "val"))

    def _write(self, text: str, properties: Element | None, style: ParagraphStyle) -> None:
        label, depth = self._label(properties, style)
        if not text:
            return
        level = style.level
        own = outline_level(properties)
        if own is not None:
            level = own if own <= 9 else None
        heading = level is not None and len(text) <= 300
        in_list = not heading and (label is not None or style.name.casefold().startswith("list"))
        if self._in_list and not in_list:
            self._builder.add("\n", "")
        self._in_list = in_list
        if level is not None and heading:
            if level == 0:
                self.title = self.title or " ".join(text.split())
            self._builder.heading(f"{label} {text}" if label not in (None, "", "-") else text, level)
        elif label is not None:
            self._builder.add(f"{'  ' * depth}{label} {text}" if label else text)
        elif in_list:
            self._builder.add(f"- {text}")
        else:
            self._builder.add(text, "\n\n")

    def _label(self, properties: Element | None, style: ParagraphStyle) -> tuple[str | None, int]:
        """Return what Word prints before the paragraph, and the depth of its list from 0."""
        number = child(properties, "numPr")
        own = attribute(child(number, "numId"), "val")
        depth = attribute(child(number, "ilvl"), "val")
        level = int(depth) if depth.isdigit() else style.list_level or 0
        return self._numbering.label(own or style.list_id, min(level, 8)), min(level, 8)

    def _beside(self, inline: _Inline) -> None:
        """Add text boxes, charts, notes and comments of a paragraph, after it."""
        for box in inline.boxes:
            self._blocks(box)
            self._flush()
        for drawing in inline.drawings:
            for found in pictures_of(self._package, self._part, drawing):
                if isinstance(found, str):
                    self._builder.add(found)
                else:
                    add_table(self._builder, found)
        for kind, number in inline.notes:
            node = self._notes.get((kind, number))
            if node is None or (kind, number) in self._written:
                continue
            self._written.add((kind, number))
            part, self._part = self._part, self._noted(kind)
            inner = [self._inline(one) for one in named(node, "p")]
            text = " ".join(filter(None, (one.text.replace("\n", " ") for one in inner)))
            author = attribute(node, "author")
            label = f"Comment by {author}" if kind == "comment" and author else kind.capitalize()
            self._builder.add(f"{label}: {text}" if text else "", "\n\n")
            self._part = part

    def _noted(self, kind: str) -> str:
        return next(iter(self._package.related(self._main, f"{kind}s")), self._main)

    def _chunk(self, relation: str) -> None:
        """Add a file that is stored within the document and shown as a part of it."""
        found = self._package.relations(self._part).get(relation)
        if found is None or not self._package.has(found.part):
            return
        from chains.retrieval.parsers import kind_of, parser_for

        data = self._package.read(found.part)
        kind = kind_of(found.part) or "text"
        if self._inserted >= _MOST_INSERTED:
            self._builder.leave_out(f"{found.part} is nested too deep")
            return
        try:
            if kind == "docx":
                inner = _Word(Package(found.part, data), self._builder, self._inserted + 1)
                inner.run()
                self.changes += inner.changes
            else:
                self._builder.add(parser_for(kind)(found.part, data).text.strip(), "\n\n")
        except (SourceError, ValueError) as error:
            self._builder.leave_out(f"the inserted file {found.part} could not be read ({error})")

    # Tables.

    def _table(self, node: Element) -> None:
        rows = list(self._rows(node))
        if _is_layout(rows):
            for _, cells in rows:
                for cell, _ in cells:
                    self._blocks(cell)
                    self._flush()
            return
        later: list[_Inline] = []
        nested: list[Element] = []
        add_table(self._builder, self._grid(rows, later, nested))
        for inline in later:
            self._beside(inline)
        for one in nested:
            self._table(one)

    def _rows(self, node: Element) -> Iterator[tuple[Element, list[tuple[Element, int]]]]:
        """Yield each visible row with its cells and the numbers of columns that they span."""
        for row in _within(node, "tr"):
            properties = child(row, "trPr")
            if child(properties, "del") is not None or is_on(child(properties, "hidden")):
                self.changes += child(properties, "del") is not None
                continue
            self.changes += child(properties, "ins") is not None
            cells = [
                (cell, int(attribute(child(cell, "tcPr", "gridSpan"), "val") or 1))
                for cell in _within(row, "tc")
                if child(cell, "tcPr", "cellDel") is None
            ]
            yield row, cells

    def _grid(
        self,
        rows: list[tuple[Element, list[tuple[Element, int]]]],
        later: list[_Inline],
        nested: list[Element],
    ) -> Iterator[Row]:
        above: dict[int, str] = {}
        for number, (row, cells) in enumerate(rows, start=1):
            properties = child(row, "trPr")
            before = attribute(child(properties, "gridBefore"), "val")
            texts = [""] * min(int(before) if before.isdigit() else 0, 64)
            spans: dict[int, int] = {}
            own, bold = False, True
            continued: dict[int, str] = {}
            for cell, width in cells:
                width = max(1, min(width, 64))
                at = len(texts)
                merged = child(cell, "tcPr", "vMerge")
                joined = child(cell, "tcPr", "hMerge")
                text, plain = self._cell(cell, later, nested)
                if joined is not None and attribute(joined, "val", "continue") == "continue" and at:
                    spans[at - 1] = spans.get(at - 1, 1) + 1
                    text = text or texts[-1]
                elif merged is not None and attribute(merged, "val", "continue") == "continue" and not text:
                    text = continued[at] = above.get(at, "")
                else:
                    own = own or bool(text)
                    bold = bold and not (plain and text)
                if width > 1:
                    spans[at] = width
                texts += [text] * width
            above = {at: text for at, text in enumerate(texts) if text}
            if own:
                yield Row(number, texts, spans, header=is_on(child(properties, "tblHeader")), bold=bold)

    def _cell(self, cell: Element, later: list[_Inline], nested: list[Element]) -> tuple[str, bool]:
        """Return the text of a cell and whether some of it is not bold; collect what stands beside it."""
        texts: list[str] = []
        plain = False
        for one in _content(cell):
            if local(one) == "tbl":
                nested.append(one)
                continue
            properties = child(one, "pPr")
            style = self._style(properties)
            inline = self._inline(one, style.hidden)
            label, _ = self._label(properties, style)
            text = " ".join(inline.text.split())
            plain = plain or (inline.plain and bool(text))
            if text:
                texts.append(f"{label} {text}" if label not in (None, "", "-") else text)
            if inline.beside:
                later.append(inline)
        return " ".join(texts), plain

    # Text within a paragraph.

    def _inline(self, node: Element, hidden: bool = False) -> _Inline:
        found = _Inline()
        self._gather(node, found, hidden)
        # An instruction never goes on in the next paragraph; a field that is cut off hides nothing.
        self._fields = [one for one in self._fields if one.shows]
        return found

    def _gather(self, node: Element, found: _Inline, hidden: bool) -> None:
        for one in node:
            name = local(one)
            if name == "r":
                self._run(one, found, hidden)
            elif name == "sdt":
                inner = child(one, "sdtContent")
                if inner is not None and not is_on(child(one, "sdtPr", "showingPlcHdr")):
                    self._gather(inner, found, hidden)
            elif name == "fldSimple":
                kind = (attribute(one, "instr").split() or [""])[0].upper()
                found.numbered_page = found.numbered_page or kind in _PAGE_FIELDS
                self._gather(one, found, hidden)
            elif name in ("oMath", "oMathPara"):
                found.pieces.append(f" {equation(one)} " if not hidden and self._shows() else "")
            elif (inner := self._inside(one, name)) is not None:
                self._gather(inner, found, hidden)

    def _shows(self) -> bool:
        return all(one.shows and one.kind != "TOC" for one in self._fields)

    def _run(self, run: Element, found: _Inline, hidden: bool) -> None:
        properties = child(run, "rPr")
        vanish = child(properties, "vanish")
        style = attribute(child(properties, "rStyle"), "val")
        if vanish is not None:
            hidden = is_on(vanish)
        elif style:
            hidden = hidden or self._styles.get(style).hidden
        bold = is_on(child(properties, "b"))
        for one in run:
            name = local(one)
            if name == "fldChar":
                self._field(one, found, hidden)
            elif name == "instrText":
                if self._fields and not self._fields[-1].shows:
                    self._fields[-1].instruction += one.text or ""
                    found.numbered_page = found.numbered_page or self._fields[-1].kind in _PAGE_FIELDS
            elif not hidden and self._shows():
                self._run_part(one, name, found)
                found.plain = found.plain or (name == "t" and not bold and bool((one.text or "").strip()))

    def _run_part(self, one: Element, name: str, found: _Inline) -> None:
        if name == "t":
            found.pieces.append(one.text or "")
        elif name in _MARKS:
            found.pieces.append(_MARKS[name])
        elif name == "sym":
            found.pieces.append(_symbol(attribute(one, "char")))
        elif name in ("footnoteReference", "endnoteReference", "commentReference"):
            found.notes.append((name.removesuffix("Reference"), attribute(one, "id")))
        elif name == "ruby":
            if (base := child(one, "rubyBase")) is not None:
                self._gather(base, found, False)
        elif name == "AlternateContent":
            for inner in [] if (form := _alternative(one)) is None else form:
                self._run_part(inner, local(inner), found)
        elif not name.endswith("Pr"):
            self._drawing(one, found)

    def _drawing(self, node: Element, found: _Inline) -> None:
        if any(attribute(one, "hidden") in ("1", "true") for one in named(node, "docPr")):
            return
        waiting = [node]
        while waiting:
            one = waiting.pop()
            name = local(one)
            if name == "txbxContent":
                found.boxes.append(one)
            elif name == "textpath":
                found.pieces.append(f" {attribute(one, 'string')} ")
            elif name in ("chart", "relIds"):
                found.drawings.append(one)
            elif name == "AlternateContent":
                waiting += [inner for inner in (_alternative(one),) if inner is not None]
            else:
                waiting += reversed(list(one))

    def _field(self, node: Element, found: _Inline, hidden: bool) -> None:
        kind = attribute(node, "fldCharType")
        if kind == "begin":
            if not hidden and self._shows():
                found.pieces.append(_form_value(child(node, "ffData")))
            self._fields.append(_Field())
        elif kind == "separate" and self._fields:
            self._fields[-1].shows = True
        elif kind == "end" and self._fields:
            self._fields.pop()


def _is_contents(node: Element) -> bool:
    """Return whether a content control holds the table of contents."""
    gallery = next((attribute(one, "val") for one in named(child(node, "sdtPr"), "docPartGallery")), "")
    return gallery == "Table of Contents"


def _alternative(node: Element) -> Element | None:
    """Return the newest form of content that is stored in several, if it has a text, or else the other."""
    forms = [one for one in node if local(one) in ("Choice", "Fallback")]
    full = (one for one in forms if next(named(one, "t", "chart", "relIds", "textpath"), None) is not None)
    return next(full, forms[0] if forms else None)


def _within(node: Element, name: str) -> Iterator[Element]:
    """Yield the rows of a table, or the cells of a row, also those within content controls."""
    for one in node:
        kind = local(one)
        if kind == name:
            yield one
        elif kind in _WRAPPERS or kind == "sdt":
            yield from _within(one, name)


def _content(cell: Element) -> Iterator[Element]:
    """Yield the paragraphs and tables of a cell, also those within content controls."""
    for one in cell:
        kind = local(one)
        if kind in ("p", "tbl"):
            yield one
        elif kind in _WRAPPERS or kind == "sdt":
            yield from _content(one)


def _is_layout(rows: list[tuple[Element, list[tuple[Element, int]]]]) -> bool:
    """Return whether a table only places its cells: one column, or a row or two of several paragraphs."""
    if not rows or all(len(cells) == 1 for _, cells in rows):
        return True
    if len(rows) > 2:
        return False
    cells = [cell for _, row in rows for cell, _ in row]
    counts = [sum(1 for one in _content(cell) if local(one) == "tbl" or _has_text(one)) for cell in cells]
    tables = any(local(one) == "tbl" for cell in cells for one in _content(cell))
    return tables or max(counts, default=0) > 2


def _has_text(node: Element) -> bool:
    return any((one.text or "").strip() for one in named(node, "t"))


def _symbol(code: str) -> str:
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    if 0xF000 <= number <= 0xF0FF:
        return _SYMBOLS.get(number - 0xF000, "")
    return chr(number) if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else ""


def _form_value(data: Element | None) -> str:
    """Return what an old form field shows: a box with or without its mark, or the chosen entry."""
    if (box := child(data, "checkBox")) is not None:
        state = child(box, "checked")
        checked = is_on(state) if state is not None else is_on(child(box, "default"))
        return "☒ " if checked else "☐ "
    if (entries := child(data, "ddList")) is not None:
        texts = [attribute(one, "val") for one in children(entries, "listEntry")]
        number = attribute(child(entries, "result"), "val") or attribute(child(entries, "default"), "val")
        chosen = int(number) if re.fullmatch(r"\d+", number) else 0
        return texts[chosen] if chosen < len(texts) else ""
    return ""
