"""Excel: every visible sheet as tables, each row with its number, cells as the program shows them.

The `.xlsx` family is read here, row by row: openpyxl and python-calamine give neither the shown text nor, at
this speed, merged and hidden cells, and both trust a wrong record of the sheet's size. xlrd reads `.xls` with
its formats; python-calamine reads `.xlsb`, whose formats it does not give, so that dates are ISO dates there.
Hidden sheets, rows and columns are left out. Formulas are read as the values that were saved with them; one
without a saved value is marked. Macros, pictures and links to other workbooks are not opened.
"""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lxml import etree  # type: ignore[import-untyped]

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import OLE, DocumentBuilder
from chains.retrieval.parsers.cells import BUILTIN, general, iso, shown
from chains.retrieval.parsers.delimited import parse_csv
from chains.retrieval.parsers.package import (
    Element,
    Package,
    attribute,
    child,
    children,
    is_on,
    local,
    named,
)
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import Row, render

# Blank rows are kept as blank lines, so that a line of a sheet has the number of its row. Above this many a
# new block says where it begins.
_MOST_BLANK = 100
_CELL = re.compile(r"([A-Z]{1,3})(\d+)")
_TAIL = re.compile(rb"</(?:\w+:)?sheetData>|<(?:\w+:)?sheetData\s*/>")
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]+\d+:[A-Z]+\d+)"')
_FILTER = re.compile(rb'<(?:\w+:)?autoFilter\s[^>]*?ref="([A-Z]+\d+:[A-Z]+\d+)"')
_CHUNK = 1 << 20
# How a workbook before Excel 95 begins, which has no container around it.
_BIFF = b"\t"


class Area(NamedTuple):
    """A rectangle of cells, rows and columns from 1 and with both ends."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, reference: str) -> Area:
        """Return the area of a reference such as `B2:C9`."""
        first, _, last = reference.replace("$", "").partition(":")
        a, b = _CELL.fullmatch(first), _CELL.fullmatch(last or first)
        if a is None or b is None:
            raise ValueError(f"expected a reference such as B2:C9, found {reference!r}")
        return cls(int(a[2]), column_number(a[1]), int(b[2]), column_number(b[1]))


def column_number(letters: str) -> int:
    """Return the number of a column: A is 1, AA is 27."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number


@dataclass(slots=True)
class Sheet:
    """A sheet's rows and what holds for all of them.

    `rows` yields the number of each row, its cells by column (from 1) or None for a hidden row, and whether
    all cells are bold.
    """

    name: str
    rows: Iterable[tuple[int, dict[int, str] | None, bool]]
    merged: list[Area] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    headers: set[int] = field(default_factory=set)
    notes: Mapping[int, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def add_sheet(builder: DocumentBuilder, sheet: Sheet) -> None:
    """Add a sheet as a section: one line per row, with the row's number as place."""
    at = 0
    for line in render(_visible(sheet)):
        gap = line.number - at
        if at == 0 or gap < 0 or gap > _MOST_BLANK:
            builder.section(sheet.name, {"sheet": sheet.name, "row": line.number, "line": line.number})
            gap = 0
        builder.add("\n" * gap + line.text)
        at = line.number + 1
    if sheet.texts:
        builder.section(sheet.name, {"sheet": sheet.name})
        for text in sheet.texts:
            builder.add(text)
    builder.add("\n", "")


def _visible(sheet: Sheet) -> Iterator[Row]:
    """Yield the rows without hidden columns; the cells of a merged area repeat its text."""
    merged = sorted(sheet.merged)
    active: list[tuple[Area, str]] = []
    used = 0
    for number, cells, bold in sheet.rows:
        active = [(area, text) for area, text in active if area.bottom >= number]
        if cells is None:
            yield Row(number, (), hidden=True)
        if not cells:
            continue
        while used < len(merged) and merged[used].top <= number:
            area = merged[used]
            used += 1
            if area.bottom >= number:
                active.append((area, cells.get(area.left, "") if area.top == number else ""))
        spans: dict[int, int] = {}
        for area, text in active:
            if text:
                spans[area.left] = area.right - area.left + 1
                last = min(area.right, area.left + 500)
                cells.update(dict.fromkeys(range(area.left, last + 1), text))
        columns = [at for at in range(1, max(cells) + 1) if at not in sheet.hidden]
        place = {at: index for index, at in enumerate(columns)}
        yield Row(
            number,
            [cells.get(at, "") for at in columns],
            {
                place[at]: sum(one in place for one in range(at, at + width))
                for at, width in spans.items()
                if at in place and width > 1
            },
            header=number in sheet.headers,
            bold=bold,
            note=sheet.notes.get(number, ""),
        )


# The .xlsx family.


def parse_xlsx(name: str, data: bytes) -> ParsedDocument:
    """Parse XLSX, XLSM and templates: one block per visible sheet, with its name as heading."""
    package = Package(name, data)
    book = _Workbook(package)
    builder = DocumentBuilder(name, "xlsx")
    for title, part in book.sheets():
        add_sheet(builder, book.sheet(title, part))
    if book.uncalculated:
        builder.leave_out(
            f"{book.uncalculated} formulas have no saved value; open and save the file in Excel"
        )
    facts = package.facts()
    metadata = {"author": facts["author"], "date": facts["date"], "sheets": book.visible}
    return builder.document(facts["title"] or stem(name), metadata, "no visible cell has a value")


class _Workbook:
    def __init__(self, package: Package) -> None:
        self._package = package
        self._part = package.main()
        self._book = package.xml(self._part)
        self._epoch_1904 = is_on_attribute(child(self._book, "workbookPr"), "date1904")
        self._strings = [
            text for part in package.related(self._part, "sharedStrings") for text in _shared(package, part)
        ]
        self._formats: list[str] = []
        self._bold: list[bool] = []
        for part in package.related(self._part, "styles"):
            self._read_styles(package.optional(part))
        self._people = {
            attribute(one, "id"): attribute(one, "displayName")
            for part in package.related(self._part, "person")
            for one in named(package.optional(part), "person")
        }
        self.uncalculated = 0
        self.visible = 0

    def _read_styles(self, root: Element | None) -> None:
        own = {int(attribute(one, "numFmtId")): attribute(one, "formatCode") for one in named(root, "numFmt")}
        fonts = [is_on(child(one, "b")) for one in children(child(root, "fonts"), "font")]
        for one in children(child(root, "cellXfs"), "xf"):
            number = int(attribute(one, "numFmtId", "0"))
            self._formats.append(own.get(number) or BUILTIN.get(number, "General"))
            font = int(attribute(one, "fontId", "0"))
            self._bold.append(font < len(fonts) and fonts[font])

    def sheets(self) -> Iterator[tuple[str, str]]:
        """Yield the name and part of every visible sheet."""
        relations = self._package.relations(self._part)
        for one in children(child(self._book, "sheets"), "sheet"):
            target = relations.get(_relation(one))
            if target is None or target.kind != "worksheet" or not self._package.has(target.part):
                continue
            if attribute(one, "state", "visible") == "visible":
                self.visible += 1
                yield attribute(one, "name"), target.part

    def sheet(self, name: str, part: str) -> Sheet:
        """Return a sheet; its rows are read while they are iterated."""
        tail = _tail(self._package, part)
        headers = {Area.of(match[1].decode()).top for match in _FILTER.finditer(tail)}
        for table in self._package.related(part, "table"):
            root = self._package.optional(table)
            if root is not None and attribute(root, "headerRowCount", "1") != "0":
                headers.add(Area.of(attribute(root, "ref")).top)
        sheet = Sheet(name, (), [Area.of(match[1].decode()) for match in _MERGED.finditer(tail)])
        sheet.headers = headers
        sheet.notes = self._comments(part)
        sheet.texts = [text for one in self._package.related(part, "drawing") for text in self._drawn(one)]
        sheet.rows = self._rows(part, sheet.hidden)
        return sheet

    def _rows(self, part: str, hidden: set[int]) -> Iterator[tuple[int, dict[int, str] | None, bool]]:
        with self._package.open(part) as handle:
            number = 0
            parser = etree.iterparse(
                handle, tag=("{*}row", "{*}col"), resolve_entities=False, no_network=True, huge_tree=False
            )
            for _, node in parser:
                if local(node) == "col":
                    if is_on_attribute(node, "hidden") or attribute(node, "width") == "0":
                        last = min(int(attribute(node, "max")), 16_384)
                        hidden.update(range(int(attribute(node, "min")), last + 1))
                    continue
                number = int(node.get("r") or number + 1)
                unseen = is_on_attribute(node, "hidden") or node.get("ht") == "0"
                yield (number, None, False) if unseen else self._row(number, node)
                node.clear()
                while node.getprevious() is not None:
                    del node.getparent()[0]

    def _row(self, number: int, node: Element) -> tuple[int, dict[int, str] | None, bool]:
        cells: dict[int, str] = {}
        at = 0
        bold = True
        for cell in node:
            reference = cell.get("r")
            at = column_number(reference.rstrip("0123456789")) if reference else at + 1
            if len(cell) and (text := self._cell(cell)):
                cells[at] = text
                style = int(cell.get("s") or 0)
                bold = bold and style < len(self._bold) and self._bold[style]
        return number, cells, bold and bool(cells)

    def _cell(self, cell: Element) -> str:
        value = formula = None
        for node in cell:
            name = local(node)
            if name == "v":
                value = node.text
            elif name == "is":
                return _rich(node)
            elif name == "f":
                formula = node.text or ""
        if value is None:
            if formula is None:
                return ""
            self.uncalculated += 1
            return f"(formula without a saved value: ={formula[:200]})"
        return self._value(cell, value)

    def _value(self, cell: Element, value: str) -> str:
        kind = cell.get("t")
        if kind == "s":
            at = int(value)
            return self._strings[at] if 0 <= at < len(self._strings) else ""
        if kind == "b":
            return "TRUE" if value == "1" else "FALSE"
        if kind in ("str", "e", "d"):
            return (
                " ".join(value.split()) if kind != "d" else value.replace("T00:00:00", "").replace("T", " ")
            )
        style = int(cell.get("s") or 0)
        code = self._formats[style] if style < len(self._formats) else "General"
        if code == "General" and len(value) < 12 and value.isdigit():
            return str(value)
        return shown(float(value), code, epoch_1904=self._epoch_1904)

    def _comments(self, part: str) -> dict[int, str]:
        """Return the comments of each row, as words that follow the row."""
        found: dict[int, list[str]] = {}
        threads = self._package.related(part, "threadedComment")
        for one in threads:
            for node in named(self._package.optional(one), "threadedComment"):
                author = self._people.get(attribute(node, "personId"), "")
                _note(found, attribute(node, "ref"), author, _rich(child(node, "text")))
        for one in [] if threads else self._package.related(part, "comments"):
            root = self._package.optional(one)
            authors = [node.text or "" for node in named(root, "author")]
            for node in named(root, "comment"):
                number = int(attribute(node, "authorId", "0"))
                author = authors[number] if number < len(authors) else ""
                text = _rich(child(node, "text"))
                _note(found, attribute(node, "ref"), author, text.removeprefix(f"{author}:").strip())
        return {number: " ".join(notes) for number, notes in found.items()}

    def _drawn(self, part: str) -> Iterator[str]:
        """Yield the texts of the shapes that lie over the cells."""
        for shape in named(self._package.optional(part), "sp"):
            for paragraph in named(child(shape, "txBody"), "p"):
                if text := " ".join("".join(t.text or "" for t in named(paragraph, "t")).split()):
                    yield text


def _relation(node: Element) -> str:
    """Return the `r:id` of an element, which has other attributes of that name without a prefix."""
    return next((str(v) for k, v in node.attrib.items() if k.endswith("}id")), "")


def is_on_attribute(node: Element | None, name: str) -> bool:
    """Return whether an attribute such as `hidden` is "1" or "true"."""
    return attribute(node, name) in ("1", "true")


def _note(found: dict[int, list[str]], reference: str, author: str, text: str) -> None:
    match = _CELL.fullmatch(reference)
    if match and text:
        by = f" by {author}" if author else ""
        found.setdefault(int(match[2]), []).append(f"(comment on {reference}{by}: {text})")


def _rich(node: Element | None) -> str:
    """Return the text of a string with or without runs, without the phonetic guide of Japanese texts."""
    texts: list[str] = []
    for one in [] if node is None else node.iter():
        if local(one) == "t" and local(one.getparent()) != "rPh":
            texts.append(one.text or "")
    if not texts and node is not None:
        texts.append(node.text or "")
    return " ".join("".join(texts).replace("_x000D_", " ").split())


def _shared(package: Package, part: str) -> Iterator[str]:
    with package.open(part) as handle:
        for _, node in etree.iterparse(handle, tag="{*}si", resolve_entities=False, no_network=True):
            yield _rich(node)
            node.clear()
            while node.getprevious() is not None:
                del node.getparent()[0]


def _tail(package: Package, part: str) -> bytes:
    """Return what follows the cells of a sheet: merged areas and filters, which the rows need before."""
    kept = b""
    found = False
    with package.open(part) as handle:
        while chunk := handle.read(_CHUNK):
            if found:
                kept += chunk
                continue
            window = kept + chunk
            match = _TAIL.search(window)
            found = match is not None
            kept = window[match.end() :] if match else window[-40:]
    return kept if found else b""


# The old and the binary formats.


def parse_xls(name: str, data: bytes) -> ParsedDocument:
    """Parse XLS, the format of Excel 97 to 2003: one block per visible sheet."""
    import xlrd  # type: ignore[import-untyped]

    if not data.startswith((OLE, _BIFF)):
        return parse_csv(name, data)  # many programs name their lists with tabs like this
    try:
        book = xlrd.open_workbook(file_contents=data, formatting_info=True, logfile=io.StringIO())
    except xlrd.XLRDError as error:
        reason = str(error)
        if "encrypted" in reason:
            reason = "one that is locked with a password"
        raise DamagedDocument(
            f"expected a workbook in {name!r}, found {reason}; save it as .xlsx without a password"
        ) from error
    builder = DocumentBuilder(name, "xls")
    for sheet in book.sheets():
        if sheet.visibility == 0:
            add_sheet(builder, _old_sheet(book, sheet))
    metadata = {"author": book.user_name, "sheets": book.nsheets}
    return builder.document(stem(name), metadata, "no visible cell has a value")


def _old_sheet(book: Any, sheet: Any) -> Sheet:
    merged = [Area(a + 1, c + 1, b, d) for a, b, c, d in sheet.merged_cells]
    hidden = {at + 1 for at, info in sheet.colinfo_map.items() if info.hidden}
    notes: dict[int, list[str]] = {}
    for (row, column), note in sheet.cell_note_map.items():
        text = " ".join(note.text.split()).removeprefix(f"{note.author}:").strip()
        _note(notes, f"{_letters(column + 1)}{row + 1}", note.author, text)
    texts = {number: " ".join(found) for number, found in notes.items()}
    return Sheet(sheet.name, _old_rows(book, sheet), merged, hidden, notes=texts)


def _letters(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _old_rows(book: Any, sheet: Any) -> Iterator[tuple[int, dict[int, str] | None, bool]]:
    for number in range(sheet.nrows):
        info = sheet.rowinfo_map.get(number)
        if info is not None and info.hidden:
            yield number + 1, None, False
            continue
        cells: dict[int, str] = {}
        bold = True
        for at in range(sheet.row_len(number)):
            text = _old_cell(book, sheet.cell(number, at))
            if text:
                cells[at + 1] = text
                style = book.xf_list[sheet.cell_xf_index(number, at)]
                bold = bold and bool(book.font_list[style.font_index].weight >= 600)
        yield number + 1, cells, bold and bool(cells)


def _old_cell(book: Any, cell: Any) -> str:
    import xlrd

    if cell.ctype in (xlrd.XL_CELL_NUMBER, xlrd.XL_CELL_DATE):
        code = book.format_map[book.xf_list[cell.xf_index].format_key].format_str
        number = book.xf_list[cell.xf_index].format_key
        return shown(cell.value, BUILTIN.get(number) or code, epoch_1904=bool(book.datemode))
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if cell.value else "FALSE"
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(cell.value, "#ERROR"))
    return " ".join(str(cell.value).split())


def first_sheet(name: str, data: bytes) -> list[list[str]]:
    """Return the visible rows of the first sheet of an XLSX or XLS that has any, as they are shown."""
    for sheet in _sheets(name, data):
        rows = [list(row.cells) for row in _visible(sheet) if row.cells]
        if rows:
            return rows
    return []


def _sheets(name: str, data: bytes) -> Iterator[Sheet]:
    if not data.startswith(OLE):
        book = _Workbook(Package(name, data))
        yield from (book.sheet(title, part) for title, part in book.sheets())
        return
    import xlrd

    old = xlrd.open_workbook(file_contents=data, formatting_info=True, logfile=io.StringIO())
    yield from (_old_sheet(old, one) for one in old.sheets() if one.visibility == 0)


def parse_xlsb(name: str, data: bytes) -> ParsedDocument:
    """Parse XLSB, the binary form of XLSX: one block per visible sheet."""
    import python_calamine

    from chains.retrieval.parsers.builder import check_archive

    check_archive(name, data)
    book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    builder = DocumentBuilder(name, "xlsb")
    for about in book.sheets_metadata:
        if about.visible != python_calamine.SheetVisibleEnum.Visible:
            continue
        if about.typ != python_calamine.SheetTypeEnum.WorkSheet:
            continue
        sheet = book.get_sheet_by_name(about.name)
        add_sheet(builder, Sheet(about.name, _plain_rows(sheet)))
    return builder.document(stem(name), {"sheets": len(book.sheet_names)}, "no visible cell has a value")


def _plain_rows(sheet: Any) -> Iterator[tuple[int, dict[int, str] | None, bool]]:
    first = sheet.start or (0, 0)
    for number, row in enumerate(sheet.iter_rows(), start=first[0] + 1):
        cells = {at: text for at, value in enumerate(row, start=first[1] + 1) if (text := _plain(value))}
        yield number, cells, False


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return general(value)
    if isinstance(value, dt.date | dt.time | dt.timedelta):
        return iso(value)
    return " ".join(str(value).split()) if value is not None else ""
