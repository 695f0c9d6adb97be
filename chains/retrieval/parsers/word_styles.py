"""Word's styles and lists: which paragraphs are headings, which text is hidden, which numbers are printed.

Rules of ECMA-376, part 1: 17.7 (styles) and 17.9 (numbering). A property that a style does not have comes
from the style that it is based on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from chains.retrieval.parsers.package import Element, attribute, child, children, is_on, named

# Names of the headings in styles.xml, which Word writes in English whatever its language.
_HEADING = re.compile(r"heading\s*(\d)$", re.IGNORECASE)
_BODY_LEVEL = 9


@dataclass(frozen=True, slots=True)
class ParagraphStyle:
    """What a style says: its outline level (1 is the top, 0 a document's title), list and visibility."""

    name: str = ""
    level: int | None = None
    hidden: bool = False
    list_id: str = ""
    list_level: int | None = None


class Styles:
    """The styles of a document by their ids; an unknown id gives a style that says nothing."""

    def __init__(self, root: Element | None) -> None:
        self._nodes = {attribute(one, "styleId"): one for one in children(root, "style")}
        self._known: dict[str, ParagraphStyle] = {}
        self._default = next(
            (
                attribute(one, "styleId")
                for one in children(root, "style")
                if attribute(one, "type") == "paragraph" and attribute(one, "default") in ("1", "true")
            ),
            "",
        )

    def get(self, style_id: str) -> ParagraphStyle:
        """Return a style with what it inherits; "" is the default style of paragraphs."""
        return self._resolve(style_id or self._default, frozenset())

    def _resolve(self, style_id: str, seen: frozenset[str]) -> ParagraphStyle:
        if style_id in self._known:
            return self._known[style_id]
        node = self._nodes.get(style_id)
        if node is None or style_id in seen or len(seen) > 50:
            # Some programs refer to built-in headings without writing their styles.
            match = _HEADING.match(style_id)
            return ParagraphStyle(name=style_id, level=int(match[1]) if match else None)
        base = ParagraphStyle()
        if (based := child(node, "basedOn")) is not None:
            base = self._resolve(attribute(based, "val"), seen | {style_id})
        style = _merged(node, base)
        self._known[style_id] = style
        return style


def _merged(node: Element, base: ParagraphStyle) -> ParagraphStyle:
    name = attribute(child(node, "name"), "val")
    match = _HEADING.match(name)
    level = int(match[1]) if match else 0 if name.casefold() == "title" else base.level
    own = outline_level(child(node, "pPr"))
    if own is not None and not match:
        level = own if own <= _BODY_LEVEL else None
    vanish = child(node, "rPr", "vanish")
    number = child(node, "pPr", "numPr")
    depth = attribute(child(number, "ilvl"), "val")
    return ParagraphStyle(
        name=name,
        level=level,
        hidden=base.hidden if vanish is None else is_on(vanish),
        list_id=attribute(child(number, "numId"), "val") or base.list_id,
        list_level=int(depth) if depth.isdigit() else base.list_level,
    )


def outline_level(properties: Element | None) -> int | None:
    """Return the outline level in a paragraph's properties, from 1; 10 is body text, None is unknown."""
    value = attribute(child(properties, "outlineLvl"), "val")
    return int(value) + 1 if value.isdigit() else None


# Numbers of lists.


@dataclass(slots=True)
class _Level:
    start: int = 1
    style: str = "decimal"
    text: str = ""
    legal: bool = False
    restart: int | None = None


@dataclass(slots=True)
class _List:
    levels: dict[int, _Level] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class Numbering:
    """The lists of a document. `label` counts, so it is called once for each paragraph in document order."""

    def __init__(self, root: Element | None) -> None:
        self._lists = {
            attribute(one, "abstractNumId"): _List(_levels(one)) for one in children(root, "abstractNum")
        }
        links = {
            attribute(child(one, "styleLink"), "val"): attribute(one, "abstractNumId")
            for one in children(root, "abstractNum")
            if child(one, "styleLink") is not None
        }
        for one in children(root, "abstractNum"):
            target = links.get(attribute(child(one, "numStyleLink"), "val"))
            if target in self._lists:
                self._lists[attribute(one, "abstractNumId")] = self._lists[target]
        self._abstract: dict[str, str] = {}
        self._own: dict[str, dict[int, _Level]] = {}
        self._starts: dict[str, dict[int, int]] = {}
        for one in children(root, "num"):
            self._read_instance(one)

    def _read_instance(self, node: Element) -> None:
        number = attribute(node, "numId")
        self._abstract[number] = attribute(child(node, "abstractNumId"), "val")
        for override in children(node, "lvlOverride"):
            depth = _whole(attribute(override, "ilvl"))
            if (level := child(override, "lvl")) is not None:
                self._own.setdefault(number, {})[depth] = _level(level)
            start = attribute(child(override, "startOverride"), "val")
            if start.isdigit():
                self._starts.setdefault(number, {})[depth] = int(start)

    def label(self, number: str, depth: int) -> str | None:
        """Return what is printed before a paragraph, such as "2.1" or "(b)"; "-" for a bullet.

        None means that the paragraph is in no list.
        """
        found = self._lists.get(self._abstract.get(number, ""))
        if found is None or number == "0":
            return None
        levels: Mapping[int, _Level] = {**found.levels, **self._own.get(number, {})}
        level = levels.get(depth, _Level())
        # A list that begins anew with a number of its own does so once.
        for at, start in list(self._starts.get(number, {}).items()):
            if at <= depth:
                found.counts[at] = start - 1
                del self._starts[number][at]
                _forget_below(found, levels, at)
        found.counts[depth] = found.counts.get(depth, level.start - 1) + 1
        _forget_below(found, levels, depth)
        if level.style == "bullet":
            return "-"
        if level.style == "none" and "%" in level.text:
            return ""

        def printed(match: re.Match[str]) -> str:
            at = int(match[1]) - 1
            other = levels.get(at, _Level())
            count = found.counts.get(at, other.start)
            return numeral(count, "decimal" if level.legal else other.style)

        return re.sub(r"%([1-9])", printed, level.text).strip()


def _forget_below(found: _List, levels: Mapping[int, _Level], depth: int) -> None:
    for at in [at for at in found.counts if at > depth]:
        restart = levels.get(at, _Level()).restart
        if restart is None or depth < restart:
            del found.counts[at]


def _levels(node: Element) -> dict[int, _Level]:
    return {_whole(attribute(one, "ilvl")): _level(one) for one in children(node, "lvl")}


def _level(node: Element) -> _Level:
    style = next((attribute(one, "val") for one in named(node, "numFmt")), "decimal")
    restart = attribute(child(node, "lvlRestart"), "val")
    return _Level(
        start=_whole(attribute(child(node, "start"), "val"), 1),
        style=style,
        text=attribute(child(node, "lvlText"), "val"),
        legal=is_on(child(node, "isLgl")),
        restart=int(restart) if restart.isdigit() else None,
    )


def _whole(text: str, default: int = 0) -> int:
    return int(text) if text.lstrip("-").isdigit() else default


_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"),
    (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
_CHINESE = "〇一二三四五六七八九"
_WORDS = (
    "Zero One Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve Thirteen Fourteen Fifteen Sixteen "
    "Seventeen Eighteen Nineteen Twenty"
).split()
_ORDINALS = (
    "Zeroth First Second Third Fourth Fifth Sixth Seventh Eighth Ninth Tenth Eleventh Twelfth Thirteenth "
    "Fourteenth Fifteenth Sixteenth Seventeenth Eighteenth Nineteenth Twentieth"
).split()


def numeral(number: int, style: str) -> str:
    """Return a number in a style of Word, or in decimals if the style is not known.

    >>> [numeral(28, style) for style in ("lowerLetter", "upperRoman", "ordinal", "decimalZero")]
    ['bb', 'XXVIII', '28th', '28']
    """
    name = style.casefold()
    if "roman" in name and 0 < number < 4000:
        text = ""
        for value, letters in _ROMAN:
            count, number = divmod(number, value)
            text += letters * count
        return text.upper() if name.startswith("upper") else text
    if name.endswith("letter") and number > 0:
        letter = chr((number - 1) % 26 + (65 if name.startswith("upper") else 97))
        return letter * ((number - 1) // 26 + 1)
    if name == "ordinal":
        tail = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        return f"{number}{tail}"
    if name in ("cardinaltext", "ordinaltext") and 0 <= number < len(_WORDS):
        return (_WORDS if name == "cardinaltext" else _ORDINALS)[number]
    if name == "decimalzero":
        return f"{number:02d}"
    if name.startswith(("chinesecounting", "japanesecounting", "ideographdigital", "taiwanesecounting")):
        return _chinese(number)
    return "" if name == "none" else str(number)


def _chinese(number: int) -> str:
    if not 0 < number < 100:
        return str(number)
    tens, ones = divmod(number, 10)
    head = "" if not tens else "十" if tens == 1 else f"{_CHINESE[tens]}十"
    return head + (_CHINESE[ones] if ones or not tens else "")
