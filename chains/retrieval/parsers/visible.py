"""Decides which elements of a web page a reader sees.

Hidden are elements that HTML, ARIA, their own style or the page's style sheets hide, and what is not the
page's content: navigation, cookie banners, share buttons and edit links. External style sheets are not
fetched; the class names that common frameworks hide elements with stand in for them. Of CSS, rules count
whose selectors consist of tags, ids, classes, attributes, descendants and children.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

_HIDDEN_TAGS = frozenset(
    "script style noscript template nav svg head iframe object embed audio video canvas map datalist rp rt "
    "del s strike annotation annotation-xml".split()
)
_HIDDEN_ROLES = frozenset(
    {"navigation", "menu", "menubar", "search", "toolbar", "tablist", "alertdialog", "tooltip"}
)
_HIDDEN_CLASSES = frozenset(
    "sr-only visually-hidden visuallyhidden screen-reader-text screen-reader-only u-hidden d-none hidden "
    "hide is-hidden invisible mw-editsection headerlink anchor-link anchorjs-link heading-anchor "
    "header-anchor hash-link permalink skip-link skip-nav skiplink skip-to-content noprint navbox catlinks "
    "mw-jump-link printfooter".split()
)
_SHOWN_AGAIN = re.compile(
    r"(?:(?:sm|md|lg|xl|2xl):|d-(?:sm|md|lg|xl)-)(?:block|flex|grid|inline|table|contents)"
)
_COOKIE = re.compile(r"cookie|consent|gdpr|onetrust|cmp-|cc-window|cc-banner", re.IGNORECASE)
_SHARE = re.compile(
    r"(?:^|[-_ ])(?:share|sharing|social|addthis|addtoany|sharedaddy)(?:[-_ ]|$)|sharebuttons?", re.IGNORECASE
)
_NAVIGATION = re.compile(
    r"(?:^|[-_ ])(?:nav|navbar|navigation|menu|menubar|breadcrumbs?|pagination|pager|toc|sidebar|sidenav|"
    r"topbar|subnav|sitemap|related|tags|skip)(?:[-_ ]|$)",
    re.IGNORECASE,
)
_FURNITURE_TAGS = frozenset({"header", "footer", "aside"})
_CONTENT_TAGS = frozenset({"html", "body", "main", "article"})
# A banner or a list of links is short; a longer part is text of the page, whatever its class is called.
_BANNER_CHARS = 2000
_LINK_SHARE = 0.6


class Rule(NamedTuple):
    """A rule of a style sheet: its selector from the last compound to the first, and what it declares."""

    compounds: tuple[tuple[str, _Compound], ...]
    weight: tuple[int, int]
    styles: dict[str, str]


class _Compound(NamedTuple):
    tag: str
    identifier: str
    classes: frozenset[str]
    attributes: tuple[tuple[str, str | None], ...]

    def matches(self, element: Any) -> bool:
        if self.tag and element.tag != self.tag:
            return False
        if self.identifier and element.get("id") != self.identifier:
            return False
        if self.classes and not self.classes <= set((element.get("class") or "").split()):
            return False
        return all(
            element.get(name) is not None if value is None else element.get(name) == value
            for name, value in self.attributes
        )


class Visibility:
    """Tells for each element of one page whether a reader sees it.

    >>> from lxml import html
    >>> page = html.document_fromstring("<style>.x{display:none}</style><p class=x>a</p><p>b</p>")
    >>> seen = Visibility(page)
    >>> [seen.hides(p) for p in page.iter("p")]
    [True, False]
    """

    def __init__(self, root: Any) -> None:
        self._rules: dict[str, list[Rule]] = defaultdict(list)
        sheets = [sheet.text or "" for sheet in root.iter("style") if _for_screens(sheet.get("media") or "")]
        for order, (selector, styles) in enumerate(_hiding_rules("\n".join(sheets))):
            if rule := _rule(selector, order, styles):
                last = rule.compounds[0][1]
                key = (
                    f"#{last.identifier}"
                    if last.identifier
                    else next((f".{c}" for c in last.classes), last.tag)
                )
                self._rules[key].append(rule)
        self._revealed = {
            (button.get(name) or "").lstrip("#")
            for name in ("aria-controls", "data-target", "data-bs-target")
            for button in root.iterfind(f".//*[@{name}]")
        } - {""}

    def hides(self, element: Any) -> bool:
        """Return whether `element` and all that is in it is not seen, or not the page's content."""
        tag = element.tag
        if tag in _HIDDEN_TAGS or (tag == "dialog" and element.get("open") is None):
            return True
        if not element.attrib and tag not in self._rules and "" not in self._rules:
            return tag in _FURNITURE_TAGS and self._is_furniture(element, "")
        if element.get("aria-hidden", "").lower() == "true" and tag != "body":
            return not _is_formula(element)
        styled = self._styled_away(element) if tag != "body" else False
        if element.get("hidden") is not None or styled:
            # A button that opens an element is on the page, so a reader can see what it opens.
            return element.get("id") not in self._revealed
        if (element.get("role") or "").lower() in _HIDDEN_ROLES:
            return True
        return self._is_furniture(element, f"{element.get('class') or ''} {element.get('id') or ''}".strip())

    def _styled_away(self, element: Any) -> bool:
        classes = (element.get("class") or "").split()
        keys = [f"#{element.get('id')}", *(f".{one}" for one in classes), element.tag, ""]
        rules = [rule for key in keys for rule in self._rules.get(key, ()) if _matches(rule, element)]
        styles: dict[str, str] = {}
        for rule in sorted(rules, key=lambda rule: rule.weight):
            styles.update(rule.styles)
        own = _declarations(element.get("style") or "")
        if own.get("opacity") in {"0", "0.0", "0%"} or re.fullmatch(
            r"0(?:px|em|rem|pt|%)?", own.get("font-size", "")
        ):
            return True
        color = own.get("color")
        if color and color in (own.get("background-color"), own.get("background")):
            return True
        styles.update(own)
        if _hides(styles):
            return True
        if _HIDDEN_CLASSES.isdisjoint(classes) or styles.get("display", "none") != "none":
            return False
        return not any(_SHOWN_AGAIN.match(one) for one in classes)

    def _is_furniture(self, element: Any, names: str) -> bool:
        tag = element.tag
        if tag in _CONTENT_TAGS:
            return False
        if tag == "a":
            return element.get("href", "").startswith("#") and bool(
                re.match(r"\s*(?:skip|jump) to\b", _text_of(element), re.IGNORECASE)
            )
        if tag == "sup":
            return "reference" in names.split() or bool(re.fullmatch(r"\s*\[\w{1,4}\]\s*", _text_of(element)))
        if _COOKIE.search(names) and _is_banner(element, "cookie", "consent", "privacy"):
            return True
        if _SHARE.search(names) and _link_share(element) > _LINK_SHARE:
            return True
        return (
            bool(tag in _FURNITURE_TAGS or _NAVIGATION.search(names)) and _link_share(element) > _LINK_SHARE
        )


def _is_formula(element: Any) -> bool:
    """Whether an element hidden from screen readers is a formula that is shown as a picture or markup."""
    return "math" in (element.get("class") or "") or element.tag == "math"


def _text_of(element: Any) -> str:
    """Return the beginning of an element's text, long enough to tell that it is no banner."""
    return "".join(itertools.islice(element.itertext(), _BANNER_CHARS))[: 4 * _BANNER_CHARS]


def _is_banner(element: Any, *words: str) -> bool:
    text = " ".join(_text_of(element).split())
    controls = any(True for _ in element.iter("button", "a", "input"))
    return len(text) < _BANNER_CHARS and controls and any(word in text.lower() for word in words)


def _link_share(element: Any) -> float:
    """Return the share of an element's letters that stand in links and buttons; 1 if it has none at all."""
    whole = len("".join(_text_of(element).split()))
    if whole == 0:
        return 1.0
    if whole > 2 * _BANNER_CHARS or element.find(".//h1") is not None:
        return 0.0
    linked = sum(
        len("".join(_text_of(link).split()))
        for link in element.iter("a", "button")
        if link.getparent() is None or link.getparent().tag not in {"a", "button"}
    )
    return linked / whole


# Style sheets -----------------------------------------------------------------------------------------------

_AWAY = ("display", "visibility", "position", "left", "right", "top", "text-indent", "clip", "clip-path")
_SELECTOR = re.compile(
    r"(?P<tag>\*|[A-Za-z][\w-]*)|#(?P<id>[\w-]+)|\.(?P<class>[\w-]+)|"
    r"\[\s*(?P<name>[\w-]+)\s*(?:=\s*[\"']?(?P<value>[^\"'\]]*)[\"']?\s*)?\]"
)
_MAX_RULES = 5000


def _declarations(style: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for declaration in style.split(";"):
        name, _, value = declaration.partition(":")
        if value:
            found[name.strip().lower()] = value.replace("!important", "").strip().lower()
    return found


def _hides(styles: dict[str, str]) -> bool:
    if styles.get("display") == "none" or styles.get("visibility") in {"hidden", "collapse"}:
        return True
    if styles.get("position") in {"absolute", "fixed"}:
        if any(_far(styles.get(side, "")) for side in ("left", "right", "top")):
            return True
        if re.match(r"rect\((?:0|1px)[\s,]", styles.get("clip", "")):
            return True
        if re.match(r"inset\((?:50|100)%", styles.get("clip-path", "")):
            return True
    return _far(styles.get("text-indent", ""))


def _far(length: str) -> bool:
    """Whether a length moves something out of the window to the left or the top."""
    match = re.match(r"-(\d+(?:\.\d+)?)(px|em|rem|pt|vw|%)?", length)
    if not match:
        return False
    return float(match[1]) >= {"em": 60, "rem": 60, "vw": 100, "%": 100}.get(match[2] or "px", 900)


def _for_screens(media: str) -> bool:
    return not re.search(r"print|speech|max-width|max-device-width|prefers-|orientation", media)


def _hiding_rules(css: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (selector, declarations) of the rules that may hide something, or show it again."""
    css = re.sub(r"/\*.*?\*/|<!--|-->", " ", css, flags=re.DOTALL)
    skipped: list[bool] = []
    selector = ""
    position = count = 0
    for brace in re.finditer(r"[{}]", css):
        text, position = css[position : brace.start()], brace.end()
        if brace[0] == "{":
            selector = text.rpartition(";")[2].strip()
            at = selector.startswith("@")
            screen = not at or (re.match(r"@(media|supports|layer)", selector) and _for_screens(selector))
            skipped.append(not screen or any(skipped[-1:]))
            continue
        if skipped and not skipped.pop() and selector and not selector.startswith("@") and count < _MAX_RULES:
            styles = {name: value for name, value in _declarations(text).items() if name in _AWAY}
            if styles:
                for one in selector.split(","):
                    count += 1
                    yield one.strip(), styles
        selector = ""


def _rule(selector: str, order: int, styles: dict[str, str]) -> Rule | None:
    """Return a rule, or None if its selector has parts that are not understood."""
    parts = re.sub(r"\s*>\s*", " >", selector).split()
    compounds: list[tuple[str, _Compound]] = []
    weight = 0
    for part in reversed(parts):
        combinator, part = (">", part[1:]) if part.startswith(">") else (" ", part)
        tag, identifier, classes, attributes, end = "", "", set(), [], 0
        for match in _SELECTOR.finditer(part):
            if match.start() != end:
                return None
            end = match.end()
            if match["tag"]:
                tag = "" if match["tag"] == "*" else match["tag"].lower()
                weight += match["tag"] != "*"
            elif match["id"]:
                identifier, weight = match["id"], weight + 10_000
            elif match["class"]:
                classes.add(match["class"])
                weight += 100
            else:
                attributes.append((match["name"].lower(), match["value"]))
                weight += 100
        if end != len(part) or not part:
            return None
        compounds.append((combinator, _Compound(tag, identifier, frozenset(classes), tuple(attributes))))
    return Rule(tuple(compounds), (weight, order), styles) if compounds else None


def _matches(rule: Rule, element: Any) -> bool:
    """Whether the selector of a rule matches; ancestors are tried from the nearest on, without going back."""
    combinator, compound = rule.compounds[0]
    if not compound.matches(element):
        return False
    for following, compound in rule.compounds[1:]:
        element = element.getparent()
        while element is not None and not compound.matches(element):
            if combinator == ">":
                return False
            element = element.getparent()
        if element is None:
            return False
        combinator = following
    return True
