"""What stands on one page of a PDF: pieces of text with their boxes, ruled lines, pictures.

PDFium reads the page (pypdfium2, BSD and Apache licences): it repairs broken files and gives each letter its
box in native code. pypdf, used before, gave text without boxes. Letters that a reader does not see are left
out: invisible ones without a scanned picture below, those in the colour of what is behind them, covered, tiny
or outside the page.

Coordinates are points (1/72 inch) from the left and the top of the page as it is shown.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

_POINTER = ctypes.c_void_p


def _fast(function: Any, result: Any, *arguments: Any) -> Any:
    """Return a function of PDFium without pypdfium2's checks of types, which cost more than the call."""
    address = ctypes.cast(function, _POINTER).value or 0
    return ctypes.CFUNCTYPE(result, *arguments)(address)


_char_box = _fast(pdfium.FPDFText_GetLooseCharBox, ctypes.c_int, _POINTER, ctypes.c_int, _POINTER)
_char_object = _fast(pdfium.FPDFText_GetTextObject, _POINTER, _POINTER, ctypes.c_int)
_char_code = _fast(pdfium.FPDFText_GetUnicode, ctypes.c_uint, _POINTER, ctypes.c_int)
_char_matrix = _fast(pdfium.FPDFText_GetMatrix, ctypes.c_int, _POINTER, ctypes.c_int, _POINTER)
_char_size = _fast(pdfium.FPDFText_GetFontSize, ctypes.c_double, _POINTER, ctypes.c_int)
_object_font = _fast(pdfium.FPDFTextObj_GetFont, _POINTER, _POINTER)
_object_mode = _fast(pdfium.FPDFTextObj_GetTextRenderMode, ctypes.c_int, _POINTER)
_object_fill = _fast(pdfium.FPDFPageObj_GetFillColor, ctypes.c_int, _POINTER, *[_POINTER] * 4)
_font_name = _fast(pdfium.FPDFFont_GetBaseFontName, ctypes.c_size_t, _POINTER, _POINTER, ctypes.c_size_t)
_font_weight = _fast(pdfium.FPDFFont_GetWeight, ctypes.c_int, _POINTER)

MAX_CHARS_ON_PAGE = 400_000
_MAX_OBJECTS = 20_000
_TINY = 1.6  # points; smaller letters cannot be read in print
# Within a line: from this part of the letters' size on, a gap is a space, and a gap between columns.
_SPACE = 0.2
_COLUMN = 1.1
_SPACES = np.array([*b"\t\n\r ", 0xA0, *range(0x2000, 0x200B), 0x202F, 0x3000], dtype=np.uint32)
_IGNORED = np.array([0, 0xFEFF, 0x200B, 0x2060], dtype=np.uint32)
_BOLD = ("bold", "black", "heavy", "semibold", "demi")
_INVISIBLE_MODES = frozenset({3, 7})


class PageBox(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: PageBox, slack: float = 1.0) -> bool:
        """Whether `other` lies within this box."""
        return (
            self.left - slack <= other.left
            and self.top - slack <= other.top
            and self.right + slack >= other.right
            and self.bottom + slack >= other.bottom
        )

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies within this box."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    @property
    def area(self) -> float:
        """Width times height."""
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)


@dataclass(slots=True)
class Segment:
    """Letters on one line without a gap as wide as one between columns.

    `box` is on the page. `size` is that of the letters in points. `words` are the places of the words, from
    which a segment over several cells of a table is cut; `line` is the box with which lines are found, which
    differs from `box` where text runs from bottom to top.
    """

    text: str
    box: PageBox
    size: float
    bold: bool = False
    words: list[tuple[float, float, str]] = field(default_factory=list)
    field_name: str = ""
    place: PageBox | None = None

    @property
    def line(self) -> PageBox:
        """The box that layout works with."""
        return self.place or self.box


@dataclass(slots=True)
class TableBlock:
    """A table: the cells of its rows, the pieces of text of each row, and whether a row is bold."""

    rows: list[list[str]]
    pieces: list[list[Segment]]
    bold: list[bool]
    line: PageBox
    size: float = 10.0
    text: str = ""
    box: PageBox = field(default_factory=lambda: PageBox(0, 0, 0, 0))


Unit = Segment | TableBlock


@dataclass(slots=True)
class PageContent:
    """The content of one page. `number` counts from 1; `rules` are straight ruled lines."""

    number: int
    width: float
    height: float
    segments: list[Segment] = field(default_factory=list)
    turned: list[list[Segment]] = field(default_factory=list)
    rules: list[PageBox] = field(default_factory=list)
    pictures: list[PageBox] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    unreadable: int = 0

    @property
    def is_picture(self) -> bool:
        """Whether a picture covers most of the page, and there is hardly any text."""
        shown = sum(min(box.area, self.width * self.height) for box in self.pictures)
        letters = sum(len(segment.text) for segment in self.segments)
        if not letters:
            return bool(self.pictures) or self.unreadable > 0
        return shown > 0.6 * self.width * self.height and letters < 40


class _Fill(NamedTuple):
    """A filled shape or picture: where it is, its place in the order of painting, its colour (None: many)."""

    box: PageBox
    order: int
    color: tuple[int, int, int] | None
    opaque: bool


class _Style(NamedTuple):
    """How the letters of a text object look. `turn` is in quarters, counterclockwise."""

    size: float
    bold: bool
    turn: int
    mode: int
    color: tuple[int, int, int, int]
    order: int


class _View:
    """Turns coordinates of a page into those of the page as it is shown."""

    def __init__(self, page: Any) -> None:
        self.left, self.bottom, self.right, self.top = page.get_cropbox()
        self.turn = page.get_rotation() // 90 % 4
        wide, high = abs(self.right - self.left), abs(self.top - self.bottom)
        self.width, self.height = (high, wide) if self.turn % 2 else (wide, high)

    def boxes(self, raw: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return rows of left, top, right, bottom from rows of PDF's left, top, right, bottom."""
        x0, x1 = np.minimum(raw[:, 0], raw[:, 2]), np.maximum(raw[:, 0], raw[:, 2])
        y0, y1 = np.minimum(raw[:, 1], raw[:, 3]), np.maximum(raw[:, 1], raw[:, 3])
        if self.turn == 0:
            found = (x0 - self.left, self.top - y1, x1 - self.left, self.top - y0)
        elif self.turn == 1:
            found = (y0 - self.bottom, x0 - self.left, y1 - self.bottom, x1 - self.left)
        elif self.turn == 2:
            found = (self.right - x1, y0 - self.bottom, self.right - x0, y1 - self.bottom)
        else:
            found = (self.top - y1, self.right - x1, self.top - y0, self.right - x0)
        return np.column_stack(found).astype(np.float64)

    def box(self, left: float, bottom: float, right: float, top: float) -> PageBox:
        """Return the box of a rectangle of the page."""
        row = self.boxes(np.array([[left, top, right, bottom]], dtype=np.float32))[0]
        return PageBox(*(float(side) for side in row))


def read_page(page: Any, number: int) -> PageContent:
    """Return the content of a page of pypdfium2."""
    view = _View(page)
    content = PageContent(number=number, width=view.width, height=view.height)
    fills, orders = _shapes(page, view, content)
    handle = pdfium.FPDFText_LoadPage(page.raw)
    if not handle:
        return content
    try:
        _read_text(ctypes.cast(handle, _POINTER).value, handle, view, content, fills, orders)
    finally:
        pdfium.FPDFText_ClosePage(handle)
    return content


# Letters ----------------------------------------------------------------------------------------------------


class _Letters(NamedTuple):
    """The letters of a page: code points, boxes, the number of each one's style, and the styles."""

    codes: NDArray[np.uint32]
    boxes: NDArray[np.float64]
    style_of: NDArray[np.int32]
    styles: list[_Style]


def _read_text(
    page: int | None,
    handle: Any,
    view: _View,
    content: PageContent,
    fills: list[_Fill],
    orders: dict[int, int],
) -> None:
    count = min(pdfium.FPDFText_CountChars(handle), MAX_CHARS_ON_PAGE)
    if count <= 0:
        return
    codes = _codes(page, handle, count)
    spaces = np.isin(codes, _SPACES)
    runs = list(_runs(page, count))
    boxes = view.boxes(_word_boxes(page, spaces, [first for first, _, _ in runs]))
    letters = _Letters(codes, boxes, np.full(count, -1, dtype=np.int32), [])
    numbers: dict[int, int] = {}
    fonts: dict[int, bool] = {}
    for first, last, pointer in runs:
        if not pointer:
            continue
        if pointer not in numbers:
            numbers[pointer] = len(letters.styles)
            letters.styles.append(_style(page, first, pointer, fonts, orders))
        letters.style_of[first:last] = numbers[pointer]
    if not letters.styles:
        return
    seen = (letters.style_of >= 0) & ~np.isin(letters.codes, _IGNORED) & ~_outside(letters.boxes, content)
    _drop_hidden(letters, seen, content, fills)
    content.unreadable = int(np.isin(letters.codes, (0, 0xFFFD)).sum() + _private(letters.codes).sum())
    turns = np.array([(style.turn - view.turn) & 3 for style in letters.styles])[letters.style_of]
    groups = {
        turn: list(_segments(letters, np.flatnonzero(seen & ~spaces & (turns == turn)), spaces, turn))
        for turn in {int(one) for one in np.unique(turns[seen])}
    }
    main = max(groups, key=lambda turn: sum(len(one.text) for one in groups[turn]), default=0)
    content.segments = groups.pop(main, [])
    content.turned = [group for group in groups.values() if group]


def _word_boxes(page: int | None, spaces: NDArray[np.bool_], runs: list[int]) -> NDArray[np.float32]:
    """Return for each letter the box of its word, from the word's first and last letter.

    PDFium puts a space wherever letters of one text object stand apart, so no box within a word is needed,
    which saves most of the calls.
    """
    begins = np.zeros(len(spaces), dtype=bool)
    begins[runs] = True
    begins[0] = True
    begins |= spaces
    begins[1:] |= spaces[:-1]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(spaces)) - 1
    raw = np.zeros((2, len(starts), 4), dtype=np.float32)
    address, second = raw.ctypes.data, raw.ctypes.data + 16 * len(starts)
    for at, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        _char_box(page, start, address + 16 * at)
        _char_box(page, end, second + 16 * at)
    x = np.concatenate((raw[..., 0], raw[..., 2]))
    y = np.concatenate((raw[..., 1], raw[..., 3]))
    words = np.column_stack((x.min(axis=0), y.max(axis=0), x.max(axis=0), y.min(axis=0)))
    return np.repeat(words, np.diff(np.append(starts, len(spaces))), axis=0)


def _codes(page: int | None, handle: Any, count: int) -> NDArray[np.uint32]:
    buffer = (ctypes.c_ushort * (count + 1))()
    pdfium.FPDFText_GetText(handle, 0, count, buffer)
    codes = np.frombuffer(bytes(buffer), dtype=np.uint16)[:count].astype(np.uint32)
    if bool((codes == 0).any()) or bool(((codes >= 0xD800) & (codes < 0xE000)).any()):
        # Characters beyond the first plane, or without Unicode, shift what GetText gives.
        codes = np.array([_char_code(page, at) for at in range(count)], dtype=np.uint32)
    # PDFium writes a hyphen at the end of a line as U+0002 or U+FFFE.
    return np.where((codes == 2) | (codes == 0xFFFE), ord("-"), codes)


def _private(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (codes >= 0xE000) & (codes < 0xF8FF)


def _outside(boxes: NDArray[np.float64], content: PageContent) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = (
        (boxes[:, 2] < 0) | (boxes[:, 0] > content.width) | (boxes[:, 3] < 0) | (boxes[:, 1] > content.height)
    )
    return outside


def _runs(page: int | None, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, after the last, text object) of the letters that belong to one text object."""
    at = 0
    while at < count:
        pointer = _char_object(page, at) or 0
        if not pointer:  # a space or line end that PDFium adds, between which a letter may stand
            yield at, at + 1, 0
            at += 1
            continue
        low, step = at, 1
        while low + step < count and (_char_object(page, low + step) or 0) == pointer:
            low, step = low + step, step * 2
        while step > 1:
            step //= 2
            if low + step < count and (_char_object(page, low + step) or 0) == pointer:
                low += step
        yield at, low + 1, pointer
        at = low + 1


def _style(page: int | None, at: int, pointer: int, fonts: dict[int, bool], orders: dict[int, int]) -> _Style:
    matrix = (ctypes.c_float * 6)()
    size = float(_char_size(page, at))
    turn = 0
    if _char_matrix(page, at, ctypes.addressof(matrix)):
        a, b, c, d = matrix[0], matrix[1], matrix[2], matrix[3]
        size *= math.hypot(c, d)
        turn = round(math.degrees(math.atan2(b, a)) / 90) % 4
    font = _object_font(pointer) or 0
    if font not in fonts:
        fonts[font] = _is_bold(font)
    color = (ctypes.c_uint * 4)(0, 0, 0, 255)
    address = ctypes.addressof(color)
    _object_fill(pointer, address, address + 4, address + 8, address + 12)
    mode = int(_object_mode(pointer))
    shade = (color[0], color[1], color[2], color[3])
    return _Style(size, fonts[font] or mode == 2, turn, mode, shade, orders.get(pointer, 1 << 30))


def _is_bold(font: int) -> bool:
    if not font:
        return False
    name = ctypes.create_string_buffer(256)
    _font_name(font, ctypes.addressof(name), 255)
    words = name.value.decode("latin-1").lower()
    return any(word in words for word in _BOLD) or int(_font_weight(font)) >= 600


def _drop_hidden(
    letters: _Letters, seen: NDArray[np.bool_], content: PageContent, fills: list[_Fill]
) -> None:
    """Mark the letters that a reader of the page does not see as not seen."""
    largest = max(style.size for style in letters.styles)
    covers = [fill for fill in fills if fill.color is not None and fill.opaque]
    for number, style in enumerate(letters.styles):
        suspect = style.mode in _INVISIBLE_MODES or style.color[3] < 13 or style.size < _TINY
        if not (suspect or covers or min(style.color[:3]) > 215):
            continue
        places = np.flatnonzero(letters.style_of == number)
        if len(places) and _hidden(style, _around(letters.boxes[places]), largest, content, covers, fills):
            seen[places] = False


def _hidden(
    style: _Style, box: PageBox, largest: float, content: PageContent, covers: list[_Fill], fills: list[_Fill]
) -> bool:
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    if style.mode in _INVISIBLE_MODES or style.color[3] < 13:
        return not any(picture.holds(x, y) for picture in content.pictures)
    if style.size < _TINY and largest >= 3 * _TINY:
        return True
    if any(fill.order > style.order and fill.box.covers(box) for fill in covers):
        return True
    behind = [fill for fill in fills if fill.order < style.order and fill.box.holds(x, y)]
    color = behind[-1].color if behind else (255, 255, 255)
    return color is not None and max(abs(a - b) for a, b in zip(color, style.color, strict=False)) <= 12


def _segments(
    letters: _Letters, index: NDArray[np.int64], spaces: NDArray[np.bool_], turn: int
) -> Iterator[Segment]:
    """Yield the segments of the letters at `index`, which run in one direction."""
    if not len(index):
        return
    page = letters.boxes[index]
    line = _turned(page, turn)
    style_of = letters.style_of[index]
    sizes = np.array([style.size or 10.0 for style in letters.styles])[style_of]
    bold = np.array([style.bold for style in letters.styles])[style_of]
    parts, words = _breaks(line, sizes, spaces, index)
    starts = np.concatenate(([0], np.flatnonzero(words) + 1))
    lefts = np.minimum.reduceat(line[:, 0], starts).tolist()
    rights = np.maximum.reduceat(line[:, 2], starts).tolist()
    text = letters.codes[index].astype("<u4").tobytes().decode("utf-32-le", "replace")
    ends = [*starts[1:].tolist(), len(index)]
    pieces = [
        (left, right, text[start:end])
        for left, right, start, end in zip(lefts, rights, starts.tolist(), ends, strict=True)
    ]
    firsts = np.concatenate(([0], np.flatnonzero(parts) + 1))
    boxes, places = _around_each(page, firsts), _around_each(line, firsts) if turn else None
    largest = np.maximum.reduceat(sizes, firsts).tolist()
    weights = np.add.reduceat(bold.astype(np.int64), firsts).tolist()
    counts = np.diff(np.append(firsts, len(index))).tolist()
    word = np.searchsorted(starts, np.append(firsts, len(index))).tolist()
    for at, box in enumerate(boxes):
        inside = pieces[word[at] : word[at + 1]]
        yield Segment(
            text=" ".join([piece for _, _, piece in inside]),
            box=box,
            size=largest[at],
            bold=2 * weights[at] > counts[at],
            words=inside,
            place=places[at] if places else None,
        )


def _breaks(
    line: NDArray[np.float64], sizes: NDArray[np.float64], spaces: NDArray[np.bool_], index: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return after which letters a segment ends, and after which a word does."""
    low, high = np.minimum(sizes[1:], sizes[:-1]), np.maximum(sizes[1:], sizes[:-1])
    gap = np.maximum(line[1:, 0] - line[:-1, 2], line[:-1, 0] - line[1:, 2])
    drop = np.abs((line[1:, 1] + line[1:, 3]) - (line[:-1, 1] + line[:-1, 3])) / 2
    parts = (drop > 0.45 * low) | (gap > _COLUMN * high)
    count = np.cumsum(spaces)
    spaced = count[index[1:]] != count[index[:-1]]
    return parts, parts | spaced | (gap > _SPACE * low)


def _around_each(rows: NDArray[np.float64], firsts: NDArray[np.int64]) -> list[PageBox]:
    low = np.minimum.reduceat(rows[:, :2], firsts).tolist()
    high = np.maximum.reduceat(rows[:, 2:], firsts).tolist()
    return [PageBox(*start, *end) for start, end in zip(low, high, strict=True)]


def _around(rows: NDArray[np.float64]) -> PageBox:
    low, high = rows[:, :2].min(axis=0), rows[:, 2:].max(axis=0)
    return PageBox(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _turned(boxes: NDArray[np.float64], turn: int) -> NDArray[np.float64]:
    """Return boxes on a page that is turned so that text written at `turn` quarters runs to the right."""
    if turn == 0:
        return boxes
    if turn == 1:  # from bottom to top
        return np.column_stack((-boxes[:, 3], boxes[:, 0], -boxes[:, 1], boxes[:, 2]))
    if turn == 2:
        return np.column_stack((-boxes[:, 2], -boxes[:, 3], -boxes[:, 0], -boxes[:, 1]))
    return np.column_stack((boxes[:, 1], -boxes[:, 2], boxes[:, 3], -boxes[:, 0]))


# Shapes and pictures ----------------------------------------------------------------------------------------

Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def _shapes(page: Any, view: _View, content: PageContent) -> tuple[list[_Fill], dict[int, int]]:
    """Return what is filled behind the text, and the order of all objects; note rules and pictures."""
    fills: list[_Fill] = []
    orders: dict[int, int] = {}
    page_area = max(content.width * content.height, 1.0)
    for order, (item, kind, matrix) in enumerate(_objects(page.raw, None, _IDENTITY, 0)):
        orders[ctypes.cast(item, _POINTER).value or 0] = order
        if kind == pdfium.FPDF_PAGEOBJ_TEXT:
            continue
        box = _bounds(item, view, matrix)
        if box is None:
            continue
        if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
            content.pictures.append(box)
            fills.append(_Fill(box, order, None, False))
        elif kind == pdfium.FPDF_PAGEOBJ_SHADING:
            fills.append(_Fill(box, order, None, False))
        else:
            fill = _path_fill(item, box, order)
            thin = min(box.right - box.left, box.bottom - box.top) < 2.5
            if fill is not None and not thin and box.area < 4 * page_area:
                fills.append(fill)
            if len(content.rules) < _MAX_OBJECTS:
                content.rules += _rules(item, box, view, matrix, filled=fill is not None)
    return fills, orders


def _objects(page: Any, form: Any, matrix: Matrix, depth: int) -> Iterator[tuple[Any, int, Matrix]]:
    count = pdfium.FPDFFormObj_CountObjects(form) if form else pdfium.FPDFPage_CountObjects(page)
    for at in range(min(count, _MAX_OBJECTS)):
        item = pdfium.FPDFFormObj_GetObject(form, at) if form else pdfium.FPDFPage_GetObject(page, at)
        if not item:
            continue
        kind = pdfium.FPDFPageObj_GetType(item)
        if kind != pdfium.FPDF_PAGEOBJ_FORM:
            yield item, kind, matrix
        elif depth < 5:
            own = pdfium.FS_MATRIX()
            inner = matrix
            if pdfium.FPDFPageObj_GetMatrix(item, own):
                inner = _product((own.a, own.b, own.c, own.d, own.e, own.f), matrix)
            yield from _objects(page, item, inner, depth + 1)


def _product(m: Matrix, n: Matrix) -> Matrix:
    return (
        m[0] * n[0] + m[1] * n[2],
        m[0] * n[1] + m[1] * n[3],
        m[2] * n[0] + m[3] * n[2],
        m[2] * n[1] + m[3] * n[3],
        m[4] * n[0] + m[5] * n[2] + n[4],
        m[4] * n[1] + m[5] * n[3] + n[5],
    )


def _moved(x: float, y: float, m: Matrix) -> tuple[float, float]:
    return m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]


def _bounds(item: Any, view: _View, matrix: Matrix) -> PageBox | None:
    sides = [ctypes.c_float() for _ in range(4)]
    if not pdfium.FPDFPageObj_GetBounds(item, *sides):
        return None
    left, bottom, right, top = (side.value for side in sides)
    if matrix is not _IDENTITY:
        corners = [_moved(x, y, matrix) for x in (left, right) for y in (bottom, top)]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        left, bottom, right, top = min(xs), min(ys), max(xs), max(ys)
    if not all(map(math.isfinite, (left, bottom, right, top))):
        return None
    return view.box(left, bottom, right, top)


def _path_fill(item: Any, box: PageBox, order: int) -> _Fill | None:
    mode, stroke = ctypes.c_int(), ctypes.c_int()
    if not pdfium.FPDFPath_GetDrawMode(item, mode, stroke) or mode.value == 0:
        return None
    color = [ctypes.c_uint() for _ in range(4)]
    if not pdfium.FPDFPageObj_GetFillColor(item, *color) or color[3].value < 13:
        return None
    red, green, blue, alpha = (one.value for one in color)
    simple = pdfium.FPDFPath_CountSegments(item) <= 6
    opaque = simple and alpha >= 250 and not pdfium.FPDFPageObj_HasTransparency(item)
    return _Fill(box, order, (red, green, blue) if alpha >= 250 else None, bool(opaque))


_MAX_POINTS = 2000


def _rules(item: Any, box: PageBox, view: _View, matrix: Matrix, *, filled: bool) -> Iterator[PageBox]:
    """Yield the straight lines, from left to right or top to bottom, of a path."""
    wide, high = box.right - box.left, box.bottom - box.top
    if min(wide, high) < 2.5:
        if max(wide, high) > 6:
            yield box
        return
    count = pdfium.FPDFPath_CountSegments(item)
    stroke, mode = ctypes.c_int(), ctypes.c_int()
    pdfium.FPDFPath_GetDrawMode(item, mode, stroke)
    if count > _MAX_POINTS or not stroke.value:
        return
    own = pdfium.FS_MATRIX()
    whole = matrix
    if pdfium.FPDFPageObj_GetMatrix(item, own):
        whole = _product((own.a, own.b, own.c, own.d, own.e, own.f), matrix)
    start = previous = None
    for at in range(count):
        segment = pdfium.FPDFPath_GetPathSegment(item, at)
        x, y = ctypes.c_float(), ctypes.c_float()
        if not pdfium.FPDFPathSegment_GetPoint(segment, x, y):
            return
        point = _moved(x.value, y.value, whole)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            start = point
        elif kind == pdfium.FPDF_SEGMENT_LINETO and previous is not None:
            yield from _rule(previous, point, view)
        if pdfium.FPDFPathSegment_GetClose(segment) and start is not None:
            yield from _rule(point, start, view)
        previous = point


def _rule(one: Sequence[float], other: Sequence[float], view: _View) -> Iterator[PageBox]:
    box = view.box(min(one[0], other[0]), min(one[1], other[1]), max(one[0], other[0]), max(one[1], other[1]))
    if (
        min(box.right - box.left, box.bottom - box.top)
        < 1.5
        < 6
        < max(box.right - box.left, box.bottom - box.top)
    ):
        yield box


def page_box(page: Any, left: float, bottom: float, right: float, top: float) -> PageBox | None:
    """Return the box of a rectangle in a page's own coordinates, or None if it is not finite."""
    if not all(map(math.isfinite, (left, bottom, right, top))):
        return None
    return _View(page).box(min(left, right), min(bottom, top), max(left, right), max(bottom, top))
