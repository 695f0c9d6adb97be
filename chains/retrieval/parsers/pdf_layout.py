"""The reading order of a page of a PDF: columns, tables and lines.

A page is cut where a gutter runs between pieces of text: what crosses the gutter (a title, a wide figure)
parts the page into bands, and each band is cut again. The strips of a band are columns if they hold prose,
and a table if their lines stand beside each other. Tables within ruled lines are found first, by their lines.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from chains.retrieval.parsers.pdf_grid import ruled_tables
from chains.retrieval.parsers.pdf_page import PageBox, PageContent, Segment, TableBlock, Unit
from chains.retrieval.parsers.tables import kind_of_cell

_BULLETS = (
    r"*\xb7\u2013\u2014\u2022\u2023\u2043\u25a0\u25a1\u25aa\u25ab\u25cb\u25cf\u25e6\u2610-\u2612\u2713"
    r"\u27a4\uf0b7-"
)
_NUMBERS = r"\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]"
_MARKER = re.compile(rf"(?:[{_BULLETS}]|{_NUMBERS}|\d{{1,2}}(?:\.\d{{1,2}}){{0,3}}\.?|\[[ x]\])$")
ITEM = re.compile(rf"(?:[{_BULLETS}]|{_NUMBERS}|\[[ x]\])\s")
"""How an item of a list begins."""
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_MAX_DEPTH = 16


@dataclass(slots=True)
class TextLine:
    """A line of prose with its pieces; `left` and `right` are the edges of its column."""

    segments: list[Segment]
    text: str
    box: PageBox
    size: float
    bold: bool
    left: float
    right: float
    first_in_column: bool = False


Item = TextLine | TableBlock


def arrange(content: PageContent) -> list[Item]:
    """Return the lines and tables of a page in the order in which they are read."""
    items: list[Item] = []
    for segments in (content.segments, *content.turned):
        units: list[Unit] = list(_with_markers(segments))
        if segments is content.segments and content.rules:
            tables, units = ruled_tables(content.rules, units)
            units += tables
        rtl = sum(bool(_RTL.search(unit.text)) for unit in units) * 2 > len(units)
        items += _order(units, rtl, 0)
    return items


def _with_markers(segments: Sequence[Segment]) -> list[Segment]:
    """Join bullets, numbers of headings and initial letters with the text that they stand before."""
    found = sorted(segments, key=lambda one: (one.line.top, one.line.left))
    kept: list[Segment] = []
    taken: set[int] = set()
    for at, one in enumerate(found):
        text = one.text.strip()
        initial = len(text) == 1 and text.isupper()
        if len(text) > 8 or not (initial or _MARKER.match(text)):
            continue
        follower = _follower(one, found, at, taken)
        if follower is not None and (not initial or one.size > 1.6 * follower.size):
            taken.add(id(one))
            _prepend(one, follower, "" if initial else " ")
    kept = [one for one in found if id(one) not in taken]
    return kept


def _follower(marker: Segment, segments: Sequence[Segment], at: int, taken: set[int]) -> Segment | None:
    """Return the nearest text to the right of a marker, on its line."""
    best = None
    box = marker.line
    for other in segments[max(0, at - 12) : at + 24]:
        line = other.line
        if other is marker or id(other) in taken or line.left < box.right - 0.5:
            continue
        shared = min(box.bottom, line.bottom) - max(box.top, line.top)
        # A bare number may be that of a heading, or the first column of a table.
        near = line.left - box.right < (2.2 if marker.text.isdigit() else 4.5) * other.size
        if near and shared > 0.4 * min(box.bottom - box.top, line.bottom - line.top):
            if best is None or line.left < best.line.left - 0.5:
                best = other
    if best is None or _MARKER.match(best.text) or not any(char.isalpha() for char in best.text):
        return None
    return best


def _prepend(marker: Segment, follower: Segment, space: str) -> None:
    follower.text = f"{marker.text}{space}{follower.text}"
    follower.words = [*marker.words, *follower.words]
    line, box = follower.line, follower.box
    if follower.place is not None:
        follower.place = PageBox(min(marker.line.left, line.left), line.top, line.right, line.bottom)
    follower.box = PageBox(min(marker.box.left, box.left), box.top, box.right, box.bottom)


# Cutting ----------------------------------------------------------------------------------------------------


def _order(units: list[Unit], rtl: bool, depth: int) -> list[Item]:
    if not units:
        return []
    if depth > _MAX_DEPTH or len(units) < 2 or not _beside(units):
        return _lines(units, rtl)
    strips = _strips(units)
    if len(strips) > 1:
        return _strips_in_order(strips, rtl, depth)
    gutter = _gutter(units)
    if gutter is None:
        return _lines(units, rtl)
    items: list[Item] = []
    band: list[Unit] = []
    crossing = {id(unit) for unit in units if unit.line.left < gutter < unit.line.right}
    for unit in sorted(units, key=lambda unit: unit.line.top + unit.line.bottom):
        same = bool(band) and (id(band[-1]) in crossing) == (id(unit) in crossing)
        if band and not same:
            items += _order(band, rtl, depth + 1) if id(band[-1]) not in crossing else _lines(band, rtl)
            band = []
        band.append(unit)
    return items + (
        _order(band, rtl, depth + 1) if id(band[-1]) not in crossing else _order(band, rtl, _MAX_DEPTH)
    )


def _beside(units: Sequence[Unit]) -> bool:
    """Whether any two units stand beside each other."""
    ordered = sorted(units, key=lambda unit: unit.line.top)
    bottom = ordered[0].line.bottom
    for unit in ordered[1:]:
        if unit.line.top < bottom - 0.35 * (unit.line.bottom - unit.line.top):
            return True
        bottom = max(bottom, unit.line.bottom)
    return False


def _gap(units: Sequence[Unit]) -> float:
    return max(0.75 * median(unit.size for unit in units), 5.0)


def _strips(units: list[Unit]) -> list[list[Unit]]:
    """Return the units between gutters that run through all of them, from left to right."""
    least = _gap(units)
    strips: list[list[Unit]] = []
    right = float("-inf")
    for unit in sorted(units, key=lambda unit: unit.line.left):
        if not strips or unit.line.left - right >= least:
            strips.append([])
        strips[-1].append(unit)
        right = max(right, unit.line.right)
    return strips


def _gutter(units: Sequence[Unit]) -> float | None:
    """Return where most neighbours part and few units cross, or None if none is crossed rarely enough."""
    boxes = np.array([unit.line for unit in units])
    left, top, right, bottom = boxes.T
    high = np.minimum(bottom[:, None] - top[:, None], bottom[None] - top[None])
    shared = np.minimum(bottom[:, None], bottom[None]) - np.maximum(top[:, None], top[None])
    gap = left[None] - right[:, None]
    one, other = np.nonzero((shared > 0.35 * high) & (gap >= _gap(units)))
    if len(one) < 2:
        return None
    places = np.unique(np.concatenate((left[other] - 0.5, right[one] + 0.5)).round(1))
    parted = ((right[one][:, None] < places) & (left[other][:, None] > places)).sum(axis=0)
    crossed = ((left[:, None] < places) & (right[:, None] > places)).sum(axis=0)
    # A pair that is parted counts once for each neighbour, so rows of a table count as columns do.
    score = np.minimum(parted, len(units)) - 1.5 * crossed
    best = int(score.argmax())
    rows = len(
        {round(float(top[at])) for at, edge in zip(other, left[other], strict=True) if edge > places[best]}
    )
    if parted[best] < 2 or rows < 2:
        return None
    return float(places[best])


def _strips_in_order(strips: list[list[Unit]], rtl: bool, depth: int) -> list[Item]:
    if not all(map(_is_prose, strips)):
        parts = _parts([unit for strip in strips for unit in strip])
        if len(parts) > 1:
            return [item for part in parts for item in _order(part, rtl, depth + 1)]
        halves = _halves(strips)
        if len(halves) > 1:
            return [item for half in halves for item in _order(half, rtl, depth + 1)]
        if _aligned(strips) >= 0.5:
            return _table(strips, rtl)
    items: list[Item] = []
    for strip in reversed(strips) if rtl else strips:
        part = _order(strip, rtl, depth + 1)
        if part and isinstance(part[0], TextLine):
            part[0].first_in_column = True
        items += part
    return items


def _halves(strips: Sequence[Sequence[Unit]]) -> list[list[Unit]]:
    """Return what stands side by side without belonging together, such as an address and a list of dates."""
    edges = [
        (max(unit.line.right for unit in before), min(unit.line.left for unit in after))
        for before, after in itertools.pairwise(strips)
    ]
    gaps = [after - before for before, after in edges]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    others = gaps[:widest] + gaps[widest + 1 :]
    size = median(unit.size for strip in strips for unit in strip)
    labels = [unit.text for unit in strips[widest + 1]]
    form = widest == 0 and len(strips) == 3 and not any(kind_of_cell(text) == "number" for text in labels)
    if not form or gaps[widest] < max(10 * size, 2.5 * max(others, default=0.0)):
        return [[unit for strip in strips for unit in strip]]
    left, right = strips[: widest + 1], strips[widest + 1 :]
    return [[unit for strip in half for unit in strip] for half in (left, right)]


def _parts(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return units between blank stretches over their whole width, from top to bottom."""
    rows = _rows(units)
    tops = [min(unit.line.top for unit in row) for row in rows]
    steps = sorted(b - a for a, b in itertools.pairwise(tops))
    if not steps:
        return [list(units)]
    usual = max(steps[len(steps) // 3], median(unit.size for unit in units))
    parts: list[list[Unit]] = [list(rows[0])]
    bottom = max(unit.line.bottom for unit in rows[0])
    for row, top in zip(rows[1:], tops[1:], strict=True):
        if top - bottom > 1.2 * usual:
            parts.append([])
        parts[-1] += row
        bottom = max(bottom, *(unit.line.bottom for unit in row))
    return parts


def _is_prose(strip: Sequence[Unit]) -> bool:
    """Whether the lines of a strip are mostly full of words."""
    lines = [unit for unit in strip if isinstance(unit, Segment)]
    if len(lines) < 3:
        return False
    wide = max(unit.line.right for unit in lines) - min(unit.line.left for unit in lines)
    full = median((unit.line.right - unit.line.left) / max(wide, 1.0) for unit in lines)
    words = median(len(unit.words) or len(unit.text.split()) for unit in lines)
    letters = median(len(unit.text) for unit in lines)
    return (full > 0.55 and (words >= 3 or letters > 30)) or (full > 0.3 and (words >= 4 or letters > 30))


def _aligned(strips: Sequence[Sequence[Unit]]) -> float:
    """Return the share of units with another strip's unit on their line, in the strip where it is largest."""
    shares = []
    for at, strip in enumerate(strips):
        middles = [
            (unit.line.top + unit.line.bottom) / 2
            for other, units in enumerate(strips)
            if other != at
            for unit in units
        ]
        near = sum(
            any(abs(middle - (unit.line.top + unit.line.bottom) / 2) < 0.35 * unit.size for middle in middles)
            for unit in strip
        )
        shares.append(near / len(strip))
    return max(shares)


# Lines and tables -------------------------------------------------------------------------------------------


def _rows(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return units line by line from top to bottom, each line from left to right."""
    rows: list[list[Unit]] = []
    top = bottom = 0.0
    for unit in sorted(units, key=lambda unit: unit.line.top + unit.line.bottom):
        box = unit.line
        shared = min(bottom, box.bottom) - max(top, box.top)
        if rows and shared > 0.5 * min(bottom - top, box.bottom - box.top):
            rows[-1].append(unit)
            if box.bottom - box.top > bottom - top:
                continue  # a taller unit does not draw further lines into the row
        else:
            rows.append([unit])
        top, bottom = box.top, box.bottom
    for row in rows:
        row.sort(key=lambda unit: unit.line.left)
    return rows


def _lines(units: Sequence[Unit], rtl: bool) -> list[Item]:
    texts = [unit for unit in units if isinstance(unit, Segment)]
    left = min((unit.line.left for unit in texts), default=0.0)
    right = max((unit.line.right for unit in texts), default=0.0)
    items: list[Item] = []
    for row in _rows(units):
        run: list[Segment] = []
        for unit in row:
            if isinstance(unit, TableBlock):
                items.append(unit)
            else:
                run.append(unit)
        if len(run) > 1 and _is_row(run):
            items.append(_block([run], [[unit.text for unit in run]]))
        elif run:
            items.append(_line(run, left, right, rtl))
    return items


def _is_row(run: Sequence[Segment]) -> bool:
    """Whether the pieces of one line stand apart, like a label and its value."""
    if any(one.text.startswith(("[ ]", "[x]")) for one in run):
        return False
    gaps = [b.line.left - a.line.right for a, b in itertools.pairwise(run)]
    return max(gaps) > 2.5 * median(one.size for one in run)


def _line(run: Sequence[Segment], left: float, right: float, rtl: bool) -> TextLine:
    ordered = list(reversed(run)) if rtl else list(run)
    text = ordered[0].text
    for before, one in itertools.pairwise(ordered):
        gap = max(one.line.left - before.line.right, before.line.left - one.line.right)
        raised = one.size < 0.8 * before.size or before.size < 0.8 * one.size
        text += one.text if raised and gap < 0.2 * before.size else f" {one.text}"
    largest = max(ordered, key=lambda one: len(one.text))
    return TextLine(
        segments=ordered,
        text=text,
        box=around([one.line for one in ordered]),
        size=largest.size,
        bold=sum(len(one.text) for one in ordered if one.bold) * 2 > len(text),
        left=left,
        right=right,
    )


def around(boxes: Sequence[PageBox]) -> PageBox:
    """Return the smallest box around some boxes."""
    return PageBox(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _block(runs: list[list[Segment]], rows: list[list[str]]) -> TableBlock:
    pieces = [one for run in runs for one in run]
    box = around([one.line for one in pieces]) if pieces else PageBox(0, 0, 0, 0)
    bold = [bool(run) and all(one.bold for one in run) for run in runs]
    return TableBlock(rows, runs, bold, box, median(one.size for one in pieces) if pieces else 10.0, box=box)


def _table(strips: list[list[Unit]], rtl: bool) -> list[Item]:
    """Return a table whose columns are the strips; lines above and below it that have one cell stay lines."""
    column = {id(unit): at for at, strip in enumerate(strips) for unit in strip}
    rows = _rows([unit for strip in strips for unit in strip])
    first = next((at for at, row in enumerate(rows) if len(row) > 1), len(rows))
    last = next((at for at in range(len(rows) - 1, -1, -1) if len(rows[at]) > 1), -1) + 1
    while first and column[id(rows[first - 1][0])] > 0:
        first -= 1
    while last < len(rows) and column[id(rows[last][0])] > 0:
        last += 1
    items = _lines([unit for row in rows[:first] for unit in row], rtl)
    runs: list[list[Segment]] = []
    cells: list[list[str]] = []
    for row in rows[first:last]:
        texts = [unit for unit in row if isinstance(unit, Segment)]
        line = [""] * len(strips)
        for unit in texts:
            at = column[id(unit)]
            line[at] = f"{line[at]} {unit.text}".strip()
        if cells and _continues(cells[-1], line, runs[-1], texts):
            cells[-1] = [" ".join(filter(None, pair)) for pair in zip(cells[-1], line, strict=True)]
            runs[-1] += texts
        elif texts:
            cells.append(line)
            runs.append(texts)
        items += [unit for unit in row if isinstance(unit, TableBlock)]
    total = _totals(cells)
    for start, end in ((0, total), (total, len(cells))):
        part = [line[::-1] if rtl else line for line in cells[start:end]]
        if start and part:
            part = [[cell for cell in line if cell] for line in part]
        if part:
            items.append(_block(runs[start:end], part))
    return items + _lines([unit for row in rows[last:] for unit in row], rtl)


def _totals(cells: Sequence[Sequence[str]]) -> int:
    """Return where the last rows of a table begin that have a label of their own, such as sums."""
    at = len(cells)
    while at > 2:
        filled = [cell for cell in cells[at - 1] if cell]
        column = next((n for n, cell in enumerate(cells[at - 1]) if cell), 0)
        above = [kind_of_cell(line[column]) for line in cells[1 : at - 1] if line[column]]
        numbers = above.count("number") * 2 > len(above)
        if len(filled) != 2 or column == 0 or kind_of_cell(filled[0]) == "number" or not numbers:
            break
        at -= 1
    return at


def _continues(
    above: Sequence[str], row: Sequence[str], before: Sequence[Segment], texts: Sequence[Segment]
) -> bool:
    """Whether a line of a table goes on in the cells of the line above, instead of being a row."""
    filled = [at for at, cell in enumerate(row) if cell]
    if not texts or row[0] or any(not above[at] or kind_of_cell(row[at]) == "number" for at in filled):
        return False
    gap = min(one.line.top for one in texts) - max(one.line.bottom for one in before)
    return gap < 0.35 * texts[0].size and len(filled) < sum(map(bool, above))
