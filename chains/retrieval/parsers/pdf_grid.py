"""Tables within ruled lines on a page of a PDF: which cell of the grid each piece of text stands in."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from chains.retrieval.parsers.pdf_page import PageBox, Segment, TableBlock, Unit

_NEAR = 3.0  # points between lines that meet
_MAX_RULES = 1500  # a drawing has more lines than a table
_MAX_CELL_CHARS = 1500  # a box with more text is a frame around it


def ruled_tables(rules: Sequence[PageBox], units: Sequence[Unit]) -> tuple[list[TableBlock], list[Unit]]:
    """Return the tables that ruled lines make of `units`, and the units outside them."""
    if len(rules) > _MAX_RULES:
        return [], list(units)
    tables: list[TableBlock] = []
    left = list(units)
    for group in _groups(rules):
        columns, rows = _edges(group)
        if len(columns) < 3 or len(rows) < 2:
            continue
        frame = PageBox(columns[0], rows[0], columns[-1], rows[-1])
        inside = [one for one in left if isinstance(one, Segment) and frame.holds(*_middle(one))]
        if len(inside) < 2 or any(not frame.covers(one.line, 4 * _NEAR) for one in inside):
            continue
        table = _table(group, columns, rows, frame, inside)
        if table is not None:
            taken = {id(one) for one in inside}
            left = [one for one in left if id(one) not in taken]
            tables.append(table)
    return tables, left


def _middle(unit: Segment) -> tuple[float, float]:
    box = unit.line
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2


def _upright(rule: PageBox) -> bool:
    return rule.bottom - rule.top > rule.right - rule.left


def _groups(rules: Sequence[PageBox]) -> list[list[PageBox]]:
    """Return the lines that meet each other, group by group."""
    group = list(range(len(rules)))

    def root(at: int) -> int:
        while group[at] != at:
            group[at] = group[group[at]]
            at = group[at]
        return at

    order = sorted(range(len(rules)), key=lambda at: rules[at].left)
    lefts = [rules[at].left for at in order]
    for at, rule in enumerate(rules):
        if _upright(rule):
            continue
        first = bisect.bisect_left(lefts, rule.left - _NEAR - 1)
        last = bisect.bisect_right(lefts, rule.right + _NEAR)
        for other in order[first:last]:
            line = rules[other]
            if line.top - _NEAR <= rule.bottom and line.bottom + _NEAR >= rule.top:
                group[root(at)] = root(other)
    found: dict[int, list[PageBox]] = {}
    for at, rule in enumerate(rules):
        found.setdefault(root(at), []).append(rule)
    return [lines for lines in found.values() if len(lines) >= 4]


def _edges(group: Sequence[PageBox]) -> tuple[list[float], list[float]]:
    xs = sorted((rule.left + rule.right) / 2 for rule in group if _upright(rule))
    ys = sorted((rule.top + rule.bottom) / 2 for rule in group if not _upright(rule))
    if ys and xs:  # a table may have no line at its left or right, or at its top or bottom
        lines = [rule for rule in group if not _upright(rule)]
        xs = sorted([*xs, min(rule.left for rule in lines), max(rule.right for rule in lines)])
        uprights = [rule for rule in group if _upright(rule)]
        ys = sorted([*ys, min(rule.top for rule in uprights), max(rule.bottom for rule in uprights)])
    return _distinct(xs), _distinct(ys)


def _distinct(values: Sequence[float]) -> list[float]:
    found: list[float] = []
    for value in values:
        if not found or value - found[-1] > 2 * _NEAR:
            found.append(value)
    return found


def _table(
    group: Sequence[PageBox],
    columns: list[float],
    rows: list[float],
    frame: PageBox,
    inside: Sequence[Segment],
) -> TableBlock | None:
    cells: dict[tuple[int, int], list[Segment]] = {}
    for unit in inside:
        row = _interval(rows, _middle(unit)[1])
        borders = _borders(group, columns, rows, row)
        for piece in _cut(unit, borders):
            cells.setdefault((row, _interval(columns, piece.line.left + 1)), []).append(piece)
    if any(sum(len(one.text) for one in cell) > _MAX_CELL_CHARS for cell in cells.values()):
        return None
    lines: list[list[str]] = []
    pieces: list[list[Segment]] = []
    width = len(columns) - 1
    for row in range(len(rows) - 1):
        for line in _split_rows([cells.get((row, at), []) for at in range(width)], len(rows)):
            lines.append([_cell_text(cell) for cell in line])
            pieces.append([one for cell in line for one in cell])
    used = [at for at in range(width) if any(line[at] for line in lines)]
    if len(used) < 2:
        return None
    bold = [bool(row) and all(one.bold for one in row) for row in pieces]
    size = max(one.size for one in inside)
    return TableBlock([[line[at] for at in used] for line in lines], pieces, bold, frame, size, box=frame)


def _interval(edges: Sequence[float], value: float) -> int:
    return min(max(bisect.bisect_right(edges, value) - 1, 0), len(edges) - 2)


def _borders(
    group: Sequence[PageBox], columns: Sequence[float], rows: Sequence[float], row: int
) -> list[float]:
    """Return the edges of columns that are drawn in a row; cells without one between them are merged."""
    top, bottom = rows[row], rows[row + 1]
    half = (bottom - top) / 2
    drawn = [
        (rule.left + rule.right) / 2
        for rule in group
        if _upright(rule) and min(rule.bottom, bottom) - max(rule.top, top) > half
    ]
    return [x for x in columns[1:-1] if any(abs(x - at) < 2 * _NEAR for at in drawn)]


def _cut(unit: Segment, borders: Sequence[float]) -> list[Segment]:
    """Return the parts of a piece of text that stand in different cells."""
    crossed = [x for x in borders if unit.line.left + 1 < x < unit.line.right - 1]
    if not crossed or len(unit.words) < 2:
        return [unit]
    parts: dict[int, list[tuple[float, float, str]]] = {}
    for word in unit.words:
        parts.setdefault(bisect.bisect_right(crossed, (word[0] + word[1]) / 2), []).append(word)
    if len(parts) < 2:
        return [unit]
    box = unit.box
    return [
        Segment(
            text=" ".join(text for _, _, text in words),
            box=PageBox(words[0][0], box.top, words[-1][1], box.bottom) if unit.place is None else box,
            size=unit.size,
            bold=unit.bold,
            words=words,
            place=None
            if unit.place is None
            else PageBox(words[0][0], unit.line.top, words[-1][1], unit.line.bottom),
        )
        for words in parts.values()
    ]


def _split_rows(cells: list[list[Segment]], edges: int) -> list[list[list[Segment]]]:
    """Return the rows between two ruled lines: one, or one a line of text if only the header is ruled off."""
    tops = [sorted({round(one.line.top / 3) for one in cell}) for cell in cells if cell]
    if edges > 4 or not tops or len(cells[0]) < 3 or min(map(len, tops)) * 2 < max(map(len, tops)):
        return [cells] if tops else []
    rows: list[list[list[Segment]]] = []
    starts = sorted(one.line.top for one in cells[0])
    for at, start in enumerate(starts):
        end = starts[at + 1] if at + 1 < len(starts) else float("inf")
        low = start if at else float("-inf")
        rows.append([[one for one in cell if low - 3 <= one.line.top < end - 3] for cell in cells])
    return rows


def _cell_text(cell: Sequence[Segment]) -> str:
    ordered = sorted(cell, key=lambda one: (round(one.line.top / 3), one.line.left))
    text = ""
    for one in ordered:
        if text.endswith("-") and one.text[:1].islower():
            text = text[:-1] + one.text
        else:
            text = f"{text} {one.text}".strip()
    return text
