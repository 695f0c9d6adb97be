"""The `format` of a text: which are written by a pattern, and which are only notes.

Knows formats of JSON Schema and of pydantic, and leaves the rest to the grammar library, which refuses what
it does not know; refuses to know other keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTES = {
    "password", "path", "file-path", "directory-path", "new-path", "binary", "color", "phone", "html",
    "markdown", "commonmark", "multiline", "textarea", "char", "code",
}  # fmt: skip
"""Formats of pydantic, OpenAPI and forms that ask nothing of the text: they say what it is for. Any other
that is unknown here is refused, since somebody may check it (`regex`, `ipvanyaddress`, `base64`)."""

_YEAR, _LEAP = "[1-9][0-9]{3}", "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)"
_DAYS = (
    "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])"
)
_DATE = f"({_YEAR}-({_DAYS})|{_LEAP}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_SPAN = "([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)"
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-%d[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P([0-9]{{1,4}}[YMWD]|([0-9]{{1,4}}D)?T{_SPAN})$",
    **{f"uuid{version}": _UUID % version for version in range(1, 9)},
}
"""Written by a pattern: a subset of what RFC 3339 (section 5.6 and appendix A) allows, which every reader
takes. The library's own dates have a 29 February every year and a year 0, its times leap seconds, and its
durations digits without end."""

_LABEL = "[A-Za-z]([A-Za-z0-9]|-[A-Za-z0-9]){0,40}"
WEB_ADDRESS = rf"^https?://({_LABEL}\.){{1,4}}[A-Za-z]{{2,12}}(:[1-9][0-9]{{0,3}})?(/[!#-;=?-Z_a-z~]*)?$"
"""A URI that pydantic's HttpUrl takes: no bare numbers as hosts (they are read as IPv4), no punycode."""

_LONGEST_WEB_ADDRESS = 2083
"""pydantic's bound on an HttpUrl, the one thing in which its schema differs from that of other URIs."""


def written(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose format can be written, became a pattern, or is gone because it is only a note.

    Args:
        schema: A JSON schema of one value; what it holds inside is left alone.
    """
    kind = schema.get("format")
    if not isinstance(kind, str):
        return dict(schema)
    pattern = PATTERNS.get(kind)
    if kind == "uri" and schema.get("maxLength") == _LONGEST_WEB_ADDRESS:
        pattern = WEB_ADDRESS
    rest = {keyword: value for keyword, value in schema.items() if keyword != "format"}
    if kind in NOTES:
        return rest
    return dict(schema) if pattern is None or "pattern" in schema else {**rest, "pattern": pattern}
