"""Arguments of a routed tool that stand in the user's message word for word.

A 135M model that copies a program or a page of text drops brackets and words; what can be cut out of the
message is cut out, and only the rest is left to the model under its grammar. Knows the built-in tools'
parameters; refuses to know the model.
"""

from __future__ import annotations

import re
from typing import Any

from agent.notes import asked_to_remember
from agent.route_signals import python_in

_SUM = re.compile(r"[\d\s.,()+\-*/^%]+")
_LEAST_TEXT = 40
"""Shorter pieces after a colon are no text to summarize."""


def plain_arguments(tool: str, message: str) -> dict[str, Any] | None:
    """The arguments of `tool` taken from the message, None where they do not stand in it."""
    if tool == "remember":
        text = asked_to_remember(message)
        return {"text": text} if text else None
    if tool == "run_python":
        code = python_in(message)
        return {"code": code} if code else None
    if tool == "write_code":
        return {"request": message}
    if tool == "summarize":
        text = _after_the_request(message)
        return {"text": text} if text else None
    if tool == "calculator":
        asked = message.strip().rstrip("?= ")
        return {"expression": asked} if _SUM.fullmatch(asked) and any(c.isdigit() for c in asked) else None
    return None


def _after_the_request(message: str) -> str | None:
    """What stands after the first empty line, or after the first colon."""
    for separator in (r"\n\s*\n", r":\s+"):
        parts = re.split(separator, message.strip(), maxsplit=1)
        if len(parts) == 2 and len(parts[1]) >= _LEAST_TEXT:
            return parts[1].strip()
    return None
