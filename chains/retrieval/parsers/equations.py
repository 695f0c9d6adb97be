"""Equations of Word and PowerPoint (OMML; ECMA-376, part 1, 22.1) as text on one line."""

from __future__ import annotations

from collections.abc import Callable

from chains.retrieval.parsers.package import Element, attribute, child, children, local


def equation(node: Element) -> str:
    """Return an equation on one line, such as `x = (a + b)/(2c)`."""
    return " ".join(_text(node).split())


def _text(node: Element) -> str:
    name = local(node)
    if name == "t":
        return str(node.text or "")
    if name.endswith("Pr"):
        return ""
    form = _FORMS.get(name)
    return form(node) if form is not None else "".join(map(_text, node))


def _part(node: Element, name: str) -> str:
    found = child(node, name)
    return "" if found is None else _text(found).strip()


def _grouped(text: str) -> str:
    return text if len(text) < 2 or text.isalnum() else f"({text})"


def _fraction(node: Element) -> str:
    return f"{_grouped(_part(node, 'num'))}/{_grouped(_part(node, 'den'))}"


def _limits(node: Element) -> str:
    low, high = _part(node, "sub"), _part(node, "sup")
    return (f"_{_grouped(low)}" if low else "") + (f"^{_grouped(high)}" if high else "")


def _script(node: Element) -> str:
    return _part(node, "e") + _limits(node)


def _script_before(node: Element) -> str:
    return _limits(node) + _part(node, "e")


def _root(node: Element) -> str:
    degree = _part(node, "deg")
    return f"root({degree}, {_part(node, 'e')})" if degree else f"√{_grouped(_part(node, 'e'))}"


def _operator(node: Element) -> str:
    mark = attribute(child(node, "naryPr", "chr"), "val", "∫")
    return f"{mark}{_limits(node)} {_part(node, 'e')}"


def _delimited(node: Element) -> str:
    properties = child(node, "dPr")
    first = attribute(child(properties, "begChr"), "val", "(")
    last = attribute(child(properties, "endChr"), "val", ")")
    inner = attribute(child(properties, "sepChr"), "val", "|")
    return first + inner.join(_text(one).strip() for one in children(node, "e")) + last


def _function(node: Element) -> str:
    return f"{_part(node, 'fName')} {_part(node, 'e')}"


def _below(node: Element) -> str:
    return f"{_part(node, 'e')}_{_grouped(_part(node, 'lim'))}"


def _above(node: Element) -> str:
    return f"{_part(node, 'e')}^{_grouped(_part(node, 'lim'))}"


def _rows(node: Element) -> str:
    rows = [", ".join(_text(one).strip() for one in children(row, "e")) for row in children(node, "mr")]
    return "; ".join(rows or [_text(one).strip() for one in children(node, "e")])


_FORMS: dict[str, Callable[[Element], str]] = {
    "f": _fraction,
    "sSup": _script,
    "sSub": _script,
    "sSubSup": _script,
    "sPre": _script_before,
    "rad": _root,
    "nary": _operator,
    "d": _delimited,
    "func": _function,
    "limLow": _below,
    "limUpp": _above,
    "m": _rows,
    "eqArr": _rows,
}
