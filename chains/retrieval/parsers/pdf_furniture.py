"""Running headers, footers and page numbers of a PDF, which are taken out of its pages.

A line is furniture if it stands at the same height at the edge of several pages, with nothing but the page's
number different. A row of three and more pieces is the header of a table that goes on over pages.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chains.retrieval.parsers.pdf_page import PageContent, Segment

PAGE_NUMBER = re.compile(
    r"[\W_]*(?:(?:page|seite|p\.?|s\.|pagina|p\u00e1gina|\u7b2c|strona|\u0441\u0442\u0440\.?)\s*)?"
    r"(?:[\d#]{1,5}|[ivxlcdm]{1,7}|[A-Z]{1,2}-[\d#]{1,4})"
    r"(?:\s*(?:/|of|von|de|sur|di|z|\u0438\u0437|\u9875|\||-|\u2013)\s*[\d#]{0,5})?[\W_]*",
    re.IGNORECASE,
)
_SIDE_NUMBER = re.compile(
    r"^\s*\d{1,4}\s+(?=\D)|"
    r"(?<=\D)[\s|\u2013\u2014-]+(?:page\s*)?\d{1,4}(?:\s*(?:of|/)\s*\d+)?\s*$",
    re.IGNORECASE,
)
_EDGE_LINES = 4
_EDGE_SHARE = 0.14


class _EdgeRow(NamedTuple):
    """A line at the top or bottom edge of a page."""

    page: PageContent
    segments: list[Segment]
    text: str
    top: float


def take_furniture(pages: Sequence[PageContent], labels: Sequence[str]) -> list[tuple[str, int]]:
    """Take running headers, footers and page numbers out of pages; return each text once, with its page."""
    if len(pages) < 2:
        return []
    seen: dict[tuple[str, str], list[_EdgeRow]] = defaultdict(list)
    for page, label in zip(pages, labels, strict=True):
        numbers = {str(page.number), label, str(len(pages))}
        for edge, row in _edges(page):
            seen[edge, _pattern(row.text, numbers)].append(row)
    kept: list[tuple[str, int]] = []
    for (_, pattern), rows in seen.items():
        is_number = bool(PAGE_NUMBER.fullmatch(pattern))
        if not is_number and len(rows[0].segments) > 2 and "#" not in pattern:
            continue
        level = _same_height(rows)
        least = 2 if is_number or len(pages) <= 4 else 3
        if len({row.page.number for row in level}) < least:
            continue
        for row in level:
            taken = {id(one) for one in row.segments}
            row.page.segments = [one for one in row.page.segments if id(one) not in taken]
        said = " ".join(_SIDE_NUMBER.sub("", level[0].text).split())
        if not is_number and len(said) > 3:
            kept.append((said, level[0].page.number))
    return kept


def _edges(page: PageContent) -> Iterator[tuple[str, _EdgeRow]]:
    top, bottom = _EDGE_SHARE * page.height, (1 - _EDGE_SHARE) * page.height
    near = [one for one in page.segments if one.box.bottom < top or one.box.top > bottom]
    rows: list[_EdgeRow] = []
    for one in sorted(near, key=lambda one: one.box.top + one.box.bottom):
        middle = (one.box.top + one.box.bottom) / 2
        if rows and rows[-1].segments[0].box.top < middle < rows[-1].segments[0].box.bottom:
            rows[-1].segments.append(one)
        else:
            rows.append(_EdgeRow(page, [one], "", one.box.top))
    for at, row in enumerate(rows):
        ordered = sorted(row.segments, key=lambda one: one.box.left)
        rows[at] = row._replace(segments=ordered, text="   ".join(one.text for one in ordered))
    upper = [row for row in rows if row.top < top]
    for row in upper[:_EDGE_LINES]:
        yield "top", row
    for row in [row for row in rows if row.top >= top][-_EDGE_LINES:]:
        yield "bottom", row


def _same_height(rows: Sequence[_EdgeRow]) -> list[_EdgeRow]:
    heights = Counter(round(row.top / 4) for row in rows)
    near = {height + side for height in heights for side in (-1, 0, 1)}
    common = {at for at in near if heights[at - 1] + heights[at] + heights[at + 1] > 1}
    return [row for row in rows if round(row.top / 4) in common]


def _pattern(text: str, numbers: set[str]) -> str:
    """Return a line without the number of its page; other numbers tell lines apart."""
    text = " ".join(text.split())
    if PAGE_NUMBER.fullmatch(text):
        return "#" if re.fullmatch(r"[ivxlcdm]{1,7}", text) else re.sub(r"\d+", "#", text)
    return re.sub(r"\w+", lambda word: "#" if word[0] in numbers else word[0], text)
