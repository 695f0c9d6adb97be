"""What Word and PowerPoint draw: the data of charts, the texts of SmartArt, equations as text."""

from __future__ import annotations

from collections.abc import Iterator

from chains.retrieval.parsers.cells import shown
from chains.retrieval.parsers.package import Element, Package, attribute, child, local, named
from chains.retrieval.parsers.tables import Row


def chart_rows(root: Element | None) -> list[list[str]]:
    """Return a chart's data as a table: the categories, and a column for each series."""
    series = list(named(root, "ser"))
    if not series:
        return _modern_chart(root)
    columns: list[dict[int, str]] = []
    names: list[str] = []
    labels: dict[int, str] = {}
    for number, one in enumerate(series, start=1):
        names.append(" ".join(_points(child(one, "tx")).values()) or f"Series {number}")
        labels = labels or _points(child(one, "cat")) or _points(child(one, "xVal"))
        columns.append(_points(child(one, "val")) or _points(child(one, "yVal")))
    rows = sorted({at for column in (labels, *columns) for at in column})
    table = [[labels.get(at, ""), *(column.get(at, "") for column in columns)] for at in rows]
    titles = [_text(axis) for axis in named(root, "catAx", "dateAx") if child(axis, "title") is not None]
    return [[titles[0] if titles else "Category", *names], *table]


def chart_title(root: Element | None) -> str:
    """Return the title of a chart, or ""."""
    for node in named(root, "chart"):
        if (title := child(node, "title")) is not None:
            return _text(title)
    return ""


def _points(node: Element | None) -> dict[int, str]:
    """Return the cached values of a reference by their index; of several levels of labels all."""
    found: dict[int, list[str]] = {}
    levels = list(named(node, "lvl")) or ([] if node is None else [node])
    for level in reversed(levels):
        code = next((one.text or "General" for one in named(level, "formatCode")), "General")
        for point in named(level, "pt"):
            value = child(point, "v")
            if value is not None and value.text:
                found.setdefault(int(attribute(point, "idx", "0")), []).append(
                    _number(value.text, code, local(point.getparent()) in ("numCache", "numLit"))
                )
    if node is not None and not found and (value := child(node, "v")) is not None and value.text:
        found[0] = [value.text]
    return {at: " ".join(texts) for at, texts in found.items()}


def _number(text: str, code: str, is_number: bool) -> str:
    if not is_number:
        return " ".join(text.split())
    try:
        return shown(float(text), code)
    except ValueError:
        return text


def _modern_chart(root: Element | None) -> list[list[str]]:
    """Return the data of a chart of Office 2016 (waterfall, treemap, funnel)."""
    columns = [
        {int(attribute(pt, "idx", "0")): pt.text or "" for pt in named(dim, "pt")}
        for dim in named(root, "strDim", "numDim")
    ]
    rows = sorted({at for column in columns for at in column})
    return [[column.get(at, "") for column in columns] for at in rows]


def _text(node: Element) -> str:
    texts = [one.text or "" for one in named(node, "t")] or [one.text or "" for one in named(node, "v")]
    return " ".join("".join(texts).split())


def smart_art(root: Element | None) -> Iterator[str]:
    """Yield the texts of a SmartArt picture as list items, from the top of its tree down."""
    points = {
        attribute(one, "modelId"): one
        for one in named(root, "pt")
        if attribute(one, "type", "node") in ("node", "asst", "doc")
    }
    below: dict[str, list[tuple[int, str]]] = {}
    has_parent = set()
    for one in named(root, "cxn"):
        if attribute(one, "type", "parOf") != "parOf":
            continue
        place = (int(attribute(one, "srcOrd", "0") or 0), attribute(one, "destId"))
        below.setdefault(attribute(one, "srcId"), []).append(place)
        has_parent.add(place[1])
    waiting = [(0, one) for one in points if one not in has_parent][::-1]
    seen: set[str] = set()
    while waiting:
        depth, one = waiting.pop()
        if one in seen or one not in points:
            continue
        seen.add(one)
        if text := _text(points[one]):
            yield f"{'  ' * max(0, depth - 1)}- {text}"
        waiting += [(depth + 1, other) for _, other in sorted(below.get(one, ()), reverse=True)]


def related_part(package: Package, part: str, relation: str) -> Element | None:
    """Return the root of the part that a part names by a relation's id, or None."""
    found = package.relations(part).get(relation)
    return package.optional(found.part) if found is not None else None


def pictures_of(package: Package, part: str, node: Element) -> Iterator[list[Row] | str]:
    """Yield what a drawing refers to: the table of a chart after its title, the items of SmartArt."""
    for one in named(node, "chart", "relIds"):
        if local(one) == "chart":
            root = related_part(package, part, attribute(one, "id"))
            if title := chart_title(root):
                yield title
            if rows := chart_rows(root):
                yield [Row(at, cells, header=at == 1) for at, cells in enumerate(rows, start=1)]
        else:
            yield from smart_art(related_part(package, part, attribute(one, "dm")))
