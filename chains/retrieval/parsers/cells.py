"""The text of a spreadsheet's cell as the program shows it: number formats of Excel (ECMA-376, 18.8.30).

    >>> [shown(n, code) for n, code in ((0.155, "0.0%"), (1234.5, '#,##0.00 "€"'), (46460, "yyyy-mm-dd"))]
    ['15.5%', '1,234.50 €', '2027-03-14']

A date whose format depends on the reader's country is written as 2027-03-14. Colours, padding and alignment
are left out. A format that cannot be read gives the plain number.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Literal, NamedTuple

# The formats with fixed numbers. Those that follow the country of the reader are given as ISO dates.
BUILTIN = {
    0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00",
    12: "# ?/?", 13: "# ??/??", 14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy",
    18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm", 21: "h:mm:ss", 22: "yyyy-mm-dd h:mm",
    37: "#,##0;(#,##0)", 38: "#,##0;(#,##0)", 39: "#,##0.00;(#,##0.00)", 40: "#,##0.00;(#,##0.00)",
    45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@",
    **dict.fromkeys((*range(27, 32), 36, *range(50, 59)), "yyyy-mm-dd"), 32: "h:mm", 33: "h:mm:ss",
}  # fmt: skip
_LOCALE_DATES = re.compile(r"\[\$-(?:f800|x-sysdate)\]|\[\$-[0-9a-f]*f800\]", re.IGNORECASE)
_LOCALE_TIMES = re.compile(r"\[\$-(?:f400|x-systime)\]", re.IGNORECASE)
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|_.|\*.|\[(?P<elapsed>h+|m+|s+)\]|\[\$(?P<currency>[^\]-]*)[^\]]*\]'
    r"|\[(?P<condition>[<>=]{1,2}-?[\d.]+)\]|\[[^\]]*\]|(?P<ampm>AM/PM|A/P)|(?P<exponent>E[+-]0+)"
    r"|(?P<date>y+|m+|d+|h+|s+(?:\.0+)?|e+|b+)|(?P<general>General)|(?P<digits>[0#?][0#?.,]*|\.[0#?]+)"
    r"|(?P<text>@)|(?P<literal>.)",
    re.IGNORECASE | re.DOTALL,
)
_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


class Token(NamedTuple):
    """One part of a format: its kind (a group of the pattern) and its text."""

    kind: str
    text: str


class FormatSection(NamedTuple):
    """The format for numbers of one sign, or for those that meet `condition`."""

    tokens: tuple[Token, ...]
    condition: str
    kind: Literal["number", "date", "text", "general"]


def is_date(code: str) -> bool:
    """Return whether a format shows dates or times."""
    return _sections(code)[0].kind == "date"


def shown(value: float, code: str = "General", *, epoch_1904: bool = False) -> str:
    """Return a number as the format `code` shows it.

    Args:
        value: The number; a date is a count of days.
        code: The format, such as `0.0%` or `dd.mm.yyyy hh:mm`.
        epoch_1904: Days are counted from 1904, as old programs for the Macintosh did, not from 1900.
    """
    try:
        return _formatted(value, code, epoch_1904)
    except (ValueError, OverflowError, ArithmeticError):
        return general(value)


def general(value: float) -> str:
    """Return a number as a cell without a format shows it: 311.0 as "311", 0.1 + 0.2 as "0.3"."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.10g}" if 1e-5 < abs(value) < 1e11 else f"{value:.6g}".upper()


def iso(value: dt.date | dt.time | dt.timedelta) -> str:
    """Return a date, time or duration in ISO form, without a time of midnight and without microseconds."""
    if isinstance(value, dt.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02d}" + (f":{seconds:02d}" if seconds else "")
    if isinstance(value, dt.datetime):
        if value.time() == dt.time():
            return value.date().isoformat()
        value = value.replace(microsecond=0)
        return value.isoformat(" ", "seconds" if value.second else "minutes")
    if isinstance(value, dt.time):
        return value.isoformat("seconds" if value.second else "minutes")
    return value.isoformat()


@lru_cache(maxsize=512)
def _sections(code: str) -> tuple[FormatSection, ...]:
    if _LOCALE_DATES.search(code):
        code = "yyyy-mm-dd"
    elif _LOCALE_TIMES.search(code):
        code = "h:mm:ss"
    found: list[FormatSection] = []
    tokens: list[Token] = []
    for match in _TOKEN.finditer(f"{code};"):
        kind = match.lastgroup or ""
        if kind == "literal" and match[0] == ";":
            found.append(_section(tokens))
            tokens = []
        elif kind:
            tokens.append(Token(kind, match[kind]))
    return tuple(found)


def _section(tokens: list[Token]) -> FormatSection:
    condition = next((token.text for token in tokens if token.kind == "condition"), "")
    kinds = {token.kind for token in tokens}
    # `E+00` is an exponent; an "e" alone is the year in Japanese and Chinese formats.
    if kinds & {"elapsed", "ampm"} or ("date" in kinds and "digits" not in kinds - {"date"}):
        kind: Literal["number", "date", "text", "general"] = "date"
    elif "date" in kinds and "exponent" not in kinds:
        kind = "date" if all(t.text.strip("0.") == "" for t in tokens if t.kind == "digits") else "number"
    else:
        kind = "general" if "general" in kinds else "text" if kinds == {"text"} else "number"
    return FormatSection(tuple(t for t in tokens if t.kind != "condition"), condition, kind)


def _formatted(value: float, code: str, epoch_1904: bool) -> str:
    sections = _sections(code or "General")
    section, absolute = _chosen(sections, value)
    if not section.tokens:
        return ""  # such as `;;;`, which hides every number
    if section.kind in ("general", "text"):
        number = general(abs(value) if absolute else value)
        texts = [number if t.kind in ("general", "text") else _literal(t) for t in section.tokens]
        return "".join(texts).strip() or number
    if section.kind == "date":
        return _date(value, section.tokens, epoch_1904)
    return _number(abs(value) if absolute else value, section.tokens)


def _chosen(sections: tuple[FormatSection, ...], value: float) -> tuple[FormatSection, bool]:
    """Return the section for a value, and whether the section writes the sign itself."""
    if any(section.condition for section in sections[:2]):
        for at, section in enumerate(sections[:3]):
            if not section.condition or _meets(value, section.condition):
                return section, at > 0 and value < 0 and len(sections) > 2
    if value < 0 and len(sections) > 1:
        return sections[1], True
    if value == 0 and len(sections) > 2:
        return sections[2], False
    return sections[0], False


def _meets(value: float, condition: str) -> bool:
    sign = condition.rstrip("-.0123456789")
    number = float(condition[len(sign) :])
    return {
        "<": value < number, ">": value > number, "=": value == number,
        "<=": value <= number, ">=": value >= number, "<>": value != number,
    }[sign]  # fmt: skip


def _literal(token: Token) -> str:
    return token.text if token.kind in ("quoted", "escaped", "currency", "literal") else ""


def _number(value: float, tokens: tuple[Token, ...]) -> str:
    masks = [token.text for token in tokens if token.kind == "digits"]
    if not masks:
        return "".join(map(_literal, tokens)) or general(value)
    if any(token.kind == "literal" and token.text == "/" for token in tokens):
        return general(value)  # a fraction is as well told in decimals
    scaled = Decimal(repr(float(value)))
    percents = sum(token.kind == "literal" and token.text == "%" for token in tokens)
    scaled *= 100**percents
    mask = masks[0]
    while mask.endswith(","):  # each trailing comma divides by a thousand
        mask, scaled = mask[:-1], scaled / 1000
    exponent = next((token.text for token in tokens if token.kind == "exponent"), "")
    if exponent:
        digits = len(mask.partition(".")[2])
        return f"{float(scaled):.{digits}E}"
    if len(masks) > 1:  # such as 000-00-0000
        return _filled_in(scaled, tokens)
    sign = "-" if scaled < 0 else ""
    number = _digits(abs(scaled), mask)
    if not any(char in "123456789" for char in number):
        sign = ""
    parts = [number if t.kind == "digits" else _literal(t) for t in tokens]
    return (sign + "".join(parts)).strip()


def _digits(value: Decimal, mask: str) -> str:
    whole, _, fraction = mask.partition(".")
    places = sum(char in "0#?" for char in fraction)
    least = len(fraction.rstrip("#?,"))
    rounded = (
        value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP) if value < Decimal(10) ** 20 else value
    )
    integer, _, decimals = f"{rounded:f}".partition(".")
    while len(decimals) > least and decimals.endswith("0"):
        decimals = decimals[:-1]
    integer = integer.lstrip("0").rjust(whole.count("0"), "0")
    if "," in whole and integer:
        integer = f"{int(integer):,}".rjust(len(integer), "0")
    return f"{integer}.{decimals}" if decimals else integer


def _filled_in(value: Decimal, tokens: tuple[Token, ...]) -> str:
    places = sum(len(token.text) for token in tokens if token.kind == "digits")
    digits = str(int(value.to_integral_value(ROUND_HALF_UP))).rjust(places, "0")
    text = ""
    for token in reversed(tokens):
        if token.kind == "digits":
            digits, tail = digits[: -len(token.text)], digits[-len(token.text) :]
            text = tail + text
        else:
            text = _literal(token) + text
    return digits + text


def moment(value: float, *, epoch_1904: bool = False) -> dt.datetime:
    """Return the date and time of a count of days, to the second."""
    if epoch_1904:
        start = dt.datetime(1904, 1, 1)
    else:
        # Excel counts a 29 February 1900 that never was.
        start = dt.datetime(1899, 12, 31 if value < 60 else 30)
    return start + dt.timedelta(seconds=round(value * 86_400))


def _date(value: float, tokens: tuple[Token, ...], epoch_1904: bool) -> str:
    if any(token.kind == "elapsed" for token in tokens):
        return _elapsed(value, tokens)
    when = moment(value, epoch_1904=epoch_1904)
    half = any(token.kind == "ampm" for token in tokens)
    parts: list[str] = []
    for at, token in enumerate(tokens):
        if token.kind == "date":
            parts.append(_date_part(when, token.text.lower(), half, _is_minute(tokens, at)))
        elif token.kind == "ampm":
            mark = "AM" if when.hour < 12 else "PM"
            parts.append(mark if len(token.text) > 3 else mark[0])
        elif token.kind not in ("text", "digits"):
            parts.append(_literal(token))
    return "".join(parts).strip()


def _is_minute(tokens: tuple[Token, ...], at: int) -> bool:
    """Return whether an `m` means minutes: it follows hours or precedes seconds."""
    before = [t.text.lower() for t in tokens[:at] if t.kind in ("date", "elapsed")]
    after = [t.text.lower() for t in tokens[at + 1 :] if t.kind in ("date", "elapsed")]
    return bool((before and before[-1][0] == "h") or (after and after[0][0] == "s"))


def _date_part(when: dt.datetime, text: str, half: bool, minute: bool) -> str:
    size = len(text)
    if text[0] in "yeb":
        return f"{when.year}" if size > 2 or text[0] == "e" else f"{when.year % 100:02d}"
    if text[0] == "m" and not minute:
        name = _MONTHS[when.month - 1]
        return (f"{when.month}", f"{when.month:02d}", name[:3], name, name[0])[min(size, 5) - 1]
    if text[0] == "d":
        name = _DAYS[when.weekday()]
        return (f"{when.day}", f"{when.day:02d}", name[:3], name)[min(size, 4) - 1]
    number = {"h": (when.hour % 12 or 12) if half else when.hour, "m": when.minute, "s": when.second}[text[0]]
    return f"{number:02d}" if len(text.partition(".")[0]) > 1 else f"{number}"


def _elapsed(value: float, tokens: tuple[Token, ...]) -> str:
    seconds = round(abs(value) * 86_400)
    left = seconds
    parts: list[str] = []
    for token in tokens:
        unit = token.text[:1].lower()
        if token.kind in ("elapsed", "date") and unit in "hms":
            size = {"h": 3600, "m": 60, "s": 1}[unit]
            number, left = divmod(left, size)
            parts.append(f"{number:0{len(token.text.partition('.')[0])}d}")
        elif token.kind != "digits":
            parts.append(_literal(token))
    return ("-" if value < 0 else "") + "".join(parts).strip()
