"""OpenDocument texts, sheets and slides (.odt, .ods, .odp, their templates and flat forms).

What a reader sees is read: paragraphs with the numbers of their lists, tables with merged cells, notes and
comments after their paragraphs, text boxes, page headers and footers once. Tracked deletions, hidden
paragraphs, hidden sheets, rows, columns and slides are left out. odfpy keeps no places and has not been
released since 2020, and python-calamine gives values, not the shown text, so content.xml is walked here.
"""

from __future__ import annotations

from collections.abc import Iterator

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.opendocument_file import Beside, OpenFile
from chains.retrieval.parsers.package import Element, attribute, child, children, local, named
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.spreadsheets import Area, Sheet, add_sheet
from chains.retrieval.parsers.tables import Row, add_table
from chains.retrieval.parsers.word_styles import numeral

# A row or column that is repeated more often is the empty rest of the sheet.
_MOST_REPEATED = 10_000
_FORMATS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
# Elements that repeat the headings, or hold no text.
_NO_TEXT = frozenset(
    "index-body table-of-content forms sequence-decls user-field-decls variable-decls annotation".split()
)
_GROUPS = frozenset(
    "table-header-rows table-rows table-row-group table-columns table-header-columns "
    "table-column-group".split()
)


# Texts.


def parse_odt(name: str, data: bytes) -> ParsedDocument:
    """Parse ODT, OTT and FODT: one block per heading; tables as one line per row, `column: value`."""
    source = OpenFile(name, data, "text")
    builder = DocumentBuilder(name, "odt")
    for text in source.running("header"):
        builder.add(text, "\n\n")
    writer = _Writer(source, builder)
    writer.blocks(source.body)
    first = True
    for text in source.running("footer"):
        if first:
            builder.section("")
        first = False
        builder.add(text, "\n\n")
    if writer.changes:
        builder.note(f"changes are pending ({writer.changes} tracked); read as if all were accepted")
    return builder.document(source.title or writer.title or stem(name), source.metadata)


class _Writer:
    """The blocks of a text, text box, note or table cell on their way into a builder."""

    def __init__(self, source: OpenFile, builder: DocumentBuilder) -> None:
        self._source = source
        self._builder = builder
        self._counts: dict[tuple[str, int], int] = {}
        self.title = ""
        self.changes = 0

    def blocks(self, node: Element) -> None:
        """Add every visible block below `node`."""
        for one in node:
            name = local(one)
            if name in ("p", "h"):
                self._paragraph(one, name)
            elif name == "list":
                self._list(one, attribute(one, "style-name"), 1)
                self._builder.add("\n", "")
            elif name == "table":
                self.table(one)
            elif name == "tracked-changes":
                self.changes += len(children(one, "changed-region"))
            elif name in ("frame", "custom-shape", "g", "rect", "ellipse"):
                self._box(one)
            elif name and name not in _NO_TEXT and not _is_hidden_section(one):
                self.blocks(one)

    def _paragraph(self, node: Element, name: str) -> None:
        style_name = attribute(node, "style-name")
        style = self._source.style(style_name)
        if style.hidden:
            return
        beside = Beside()
        text = self._source.inline(node, beside)
        given = attribute(node, "outline-level")
        level = int(given) if given.isdigit() else 1
        if text and name == "h":
            self._builder.heading(self._numbered(text, level, node), level)
        elif text and "Title" in (style_name, style.parent):
            self.title = self.title or text
            self._builder.heading(text, 0)
        elif text and style.level and given != "0":
            self._builder.heading(text, style.level)
        else:
            self._builder.add(text, "\n\n")
        self._after(beside)

    def _numbered(self, text: str, level: int, node: Element) -> str:
        """Return a heading with its number, where the file says how headings are numbered."""
        style = next((one for root in self._source.styled for one in named(root, "outline-style")), None)
        if style is None or attribute(node, "is-list-header") == "true":
            return text
        label = self._label("", style, level)
        return f"{label} {text}" if label and label != "-" else text

    def _after(self, beside: Beside) -> None:
        for box in beside.boxes:
            self._box(box)
        for kind, node in beside.notes:
            author = next((one.text or "" for one in named(node, "creator")), "")
            body = child(node, "note-body")
            inner = node if body is None else body
            lines = (" ".join(self._source.inline(one, Beside()).split()) for one in named(inner, "p"))
            text = " ".join(filter(None, lines))
            label = f"{kind} by {author}" if kind == "Comment" and author else kind
            self._builder.add(f"{label}: {text}" if text else "", "\n\n")

    def _box(self, node: Element) -> None:
        found = next(named(node, "text-box"), None)
        self.blocks(found if found is not None else node)

    def _list(self, node: Element, style: str, depth: int) -> None:
        goes_on = attribute(node, "continue-numbering") == "true" or attribute(node, "continue-list")
        if depth == 1 and not goes_on:
            self._counts = {key: n for key, n in self._counts.items() if key[0] != style}
        for item in node:
            if local(item) not in ("list-item", "list-header"):
                continue
            start = attribute(item, "start-value")
            if start.isdigit():
                self._counts[style, depth] = int(start) - 1
            first = local(item) == "list-item"
            for one in item:
                if local(one) == "list":
                    self._list(one, attribute(one, "style-name") or style, depth + 1)
                elif local(one) in ("p", "h"):
                    self._item(one, style, depth, numbered=first)
                    first = False
                else:
                    self.blocks(item)
                    break

    def _item(self, node: Element, style: str, depth: int, *, numbered: bool) -> None:
        beside = Beside()
        own = self._source.style(attribute(node, "style-name"))
        text = "" if own.hidden else self._source.inline(node, beside)
        label = self._label(style, self._source.lists.get(style or own.list_style), depth) if numbered else ""
        if text and local(node) == "h":
            level = attribute(node, "outline-level")
            heading = f"{label} {text}" if label not in ("", "-") else text
            self._builder.heading(heading, int(level) if level.isdigit() else depth)
        elif text:
            self._builder.add(f"{'  ' * (depth - 1)}{label} {text}" if label else text)
        self._after(beside)

    def _label(self, name: str, style: Element | None, depth: int) -> str:
        """Return what is printed before an item or heading; "-" for a bullet."""
        levels = {attribute(one, "level"): one for one in (style if style is not None else ())}
        level = levels.get(str(depth))
        if level is None or not any(word in local(level) for word in ("number", "outline-level-style")):
            return "-"
        for key in [key for key in self._counts if key[0] == name and key[1] > depth]:
            del self._counts[key]
        start = attribute(level, "start-value")
        first_number = int(start) if start.isdigit() else 1
        self._counts[name, depth] = self._counts.get((name, depth), first_number - 1) + 1
        shown = attribute(level, "display-levels")
        first = depth - (int(shown) if shown.isdigit() else 1) + 1
        numbers = []
        for at in range(max(1, first), depth + 1):
            code = attribute(levels.get(str(at)), "num-format", "1")
            if code:
                numbers.append(numeral(self._counts.get((name, at), 1), _FORMATS.get(code, "decimal")))
        if not attribute(level, "num-format"):
            return ""
        return attribute(level, "num-prefix") + ".".join(numbers) + attribute(level, "num-suffix")

    def table(self, node: Element) -> None:
        """Add a table; one that only places its cells is read cell by cell."""
        if attribute(node, "is-sub-table") != "true" and _is_layout(node):
            for cell in named(node, "table-cell"):
                if not any(local(above) == "table-cell" for above in _above(cell, node)):
                    self.blocks(cell)
            return
        nested: list[Element] = []
        beside = Beside()
        add_table(self._builder, (row for row in _rows(node, self._source, nested, beside)))
        self._after(beside)
        for one in nested:
            self.table(one)


def _is_hidden_section(node: Element) -> bool:
    return attribute(node, "display") in ("none", "condition") and attribute(node, "is-hidden") != "false"


def _above(node: Element, top: Element) -> Iterator[Element]:
    for one in node.iterancestors():
        if one is top:
            return
        yield one


def _is_layout(node: Element) -> bool:
    rows = [row for row in _parts(node, "table-row")]
    if all(len(children(row, "table-cell")) == 1 for row in rows):
        return True
    if len(rows) > 2:
        return False
    cells = [cell for row in rows for cell in children(row, "table-cell")]
    long = any(sum(local(one) in ("p", "h") for one in cell) > 2 for cell in cells)
    return long or any(children(cell, "table") for cell in cells)


# Tables and sheets.


def _parts(node: Element, name: str) -> Iterator[Element]:
    """Yield the rows or columns of a table, also those in groups and headers, not those of nested tables."""
    for one in node:
        kind = local(one)
        if kind == name:
            yield one
        elif kind in _GROUPS and attribute(one, "display") != "false":
            yield from _parts(one, name)


def _count(node: Element, name: str) -> int:
    value = attribute(node, name)
    return int(value) if value.isdigit() else 1


def _grid(
    node: Element, source: OpenFile, nested: list[Element], beside: Beside
) -> Iterator[tuple[int, dict[int, str] | None, list[Area], bool, bool]]:
    """Yield each row: its number, cells by column, merged areas, whether it is a header, and bold.

    A hidden row has None for its cells.
    """
    number = 0
    for row in _parts(node, "table-row"):
        repeated = _count(row, "number-rows-repeated")
        cells: dict[int, str] = {}
        areas: list[Area] = []
        at, bold = 1, True
        for cell in row:
            width = _count(cell, "number-columns-repeated")
            if local(cell) == "table-cell":
                text, strong = _cell(cell, source, nested, beside)
                across, down = _count(cell, "number-columns-spanned"), _count(cell, "number-rows-spanned")
                if text and width <= _MOST_REPEATED:
                    cells.update(dict.fromkeys(range(at, at + width), text))
                    bold = bold and strong
                if text and (across > 1 or down > 1):
                    areas.append(Area(number + 1, at, number + down, at + across - 1))
            at += width
        hidden = attribute(row, "visibility") in ("collapse", "filter")
        header = local(row.getparent()) == "table-header-rows"
        shown = repeated if (cells or hidden) and repeated <= _MOST_REPEATED else 1
        for at in range(number + 1, number + shown + 1):
            yield at, None if hidden else dict(cells), areas, header, bold and bool(cells)
        number += repeated


def _cell(cell: Element, source: OpenFile, nested: list[Element], beside: Beside) -> tuple[str, bool]:
    texts: list[str] = []
    bold = source.style(attribute(cell, "style-name")).bold
    waiting = list(cell)[::-1]
    while waiting:
        one = waiting.pop()
        name = local(one)
        if name in ("p", "h"):
            style = source.style(attribute(one, "style-name"))
            spans = children(one, "span")
            strong = style.bold or (
                bool(spans)
                and not (one.text or "").strip()
                and all(source.style(attribute(span, "style-name")).bold for span in spans)
            )
            bold = bold or strong
            if not style.hidden and (text := source.inline(one, beside)):
                texts.append(" ".join(text.split()))
        elif name == "annotation":
            beside.notes.append(("Comment", one))
        elif name == "table":
            nested.append(one)
        elif name in ("list", "list-item", "list-header", "section"):
            waiting += list(one)[::-1]
    if not texts and attribute(cell, "value-type") not in ("", "string"):
        value = next((attribute(cell, f"{kind}value") for kind in ("date-", "time-", "boolean-", "")), "")
        texts = [value] if value else []
    return " ".join(texts), bold


def _rows(node: Element, source: OpenFile, nested: list[Element], beside: Beside) -> Iterator[Row]:
    active: list[tuple[Area, str]] = []
    for number, cells, areas, header, bold in _grid(node, source, nested, beside):
        active = [(area, text) for area, text in active if area.bottom >= number]
        if cells is None:
            yield Row(number, (), hidden=True)
        if not cells:
            continue
        active += [(area, cells[area.left]) for area in areas if area.top == number]
        spans: dict[int, int] = {}
        for area, text in active:
            cells.update(dict.fromkeys(range(area.left, min(area.right, area.left + 500) + 1), text))
            if area.right > area.left:
                spans[area.left - 1] = area.right - area.left + 1
        texts = [cells.get(at, "") for at in range(1, max(cells) + 1)]
        yield Row(number, texts, spans, header=header, bold=bold)


def parse_ods(name: str, data: bytes) -> ParsedDocument:
    """Parse ODS, OTS and FODS: one block per visible sheet; one line per row, with the text of its cells."""
    source = OpenFile(name, data, "spreadsheet")
    builder = DocumentBuilder(name, "ods")
    sheets = children(source.body, "table")
    for table in sheets:
        if not source.style(attribute(table, "style-name")).hidden:
            add_sheet(builder, _sheet(table, source))
    return builder.document(
        source.title or stem(name), {**source.metadata, "sheets": len(sheets)}, "no visible cell has a value"
    )


def _sheet(table: Element, source: OpenFile) -> Sheet:
    sheet = Sheet(attribute(table, "name"), ())
    at = 1
    for column in _parts(table, "table-column"):
        width = _count(column, "number-columns-repeated")
        if attribute(column, "visibility") in ("collapse", "filter"):
            sheet.hidden.update(range(at, at + min(width, _MOST_REPEATED)))
        at += width
    notes: dict[int, str] = {}
    sheet.notes = notes
    sheet.rows = _sheet_rows(table, source, sheet, notes)
    return sheet


def _sheet_rows(
    table: Element, source: OpenFile, sheet: Sheet, notes: dict[int, str]
) -> Iterator[tuple[int, dict[int, str] | None, bool]]:
    beside = Beside()
    for number, cells, areas, header, bold in _grid(table, source, [], beside):
        sheet.merged += [area for area in areas if area.top == number]
        if header:
            sheet.headers.add(number)
        texts = []
        for _, note in beside.notes:
            author = next((one.text or "" for one in named(note, "creator")), "")
            text = " ".join(source.inline(one, Beside()) for one in named(note, "p"))
            texts.append(f"(comment{f' by {author}' if author else ''}: {text})")
        beside.notes.clear()
        if texts:
            notes[number] = " ".join(texts)
        yield number, cells, bold


# Slides.


def parse_odp(name: str, data: bytes) -> ParsedDocument:
    """Parse ODP, OTP and FODP: one block per visible slide, its number as page and its title as heading."""
    source = OpenFile(name, data, "presentation")
    builder = DocumentBuilder(name, "odp")
    pages = children(source.body, "page")
    for number, page in enumerate(pages, start=1):
        if source.style(attribute(page, "style-name")).hidden:
            continue
        frames = [one for one in page if local(one) not in ("notes", "forms", "annotation")]
        titles = [one for one in frames if attribute(one, "class") == "title"]
        title = _title(source, titles[0]) if titles else ""
        builder.page(number)
        builder.section(title or f"Slide {number}", {"slide": number})
        builder.add(title, "\n\n")
        writer = _Writer(source, builder)
        for frame in sorted((one for one in frames if one not in titles[:1]), key=_place):
            for table in children(frame, "table"):
                writer.table(table)
            if not children(frame, "table"):
                writer._box(frame)
        for notes in children(page, "notes"):
            text = "\n".join(filter(None, (source.inline(one, Beside()) for one in named(notes, "p"))))
            builder.add(f"Notes: {text}" if text else "", "\n\n")
        for note in children(page, "annotation"):
            writer._after(Beside(notes=[("Comment", note)]))
        builder.add("\n", "")
    metadata = {**source.metadata, "pages": len(pages)}
    return builder.document(source.title or stem(name), metadata, "no visible slide has text")


def _title(source: OpenFile, frame: Element) -> str:
    return " ".join(" ".join(source.inline(one, Beside()).split()) for one in named(frame, "p", "h")).strip()


def _place(frame: Element) -> tuple[float, float]:
    """Return the top and left of a frame in centimetres, tops rounded to half a centimetre."""

    def length(name: str) -> float:
        text = attribute(frame, name) or "0"
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = {"in": 2.54, "mm": 0.1, "pt": 0.0353}.get(text[len(number) :], 1.0)
        try:
            return float(number) * unit
        except ValueError:
            return 0.0

    return round(2 * length("y")) / 2, length("x")
