"""Arguments of a routed tool that stand in the user's message word for word.

A 135M model that copies a program or a page of text drops brackets and words; what can be cut out of the
message is cut out, and only the rest is left to the model under its grammar. Knows the built-in tools'
parameters; refuses to know the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from agent.notes import asked_to_remember
from agent.route_signals import python_in

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SUM = re.compile(r"[(\-]*\d[\d\s.,()+\-*/^%]*")
_OPERATOR = re.compile(r"(?<=[\d)%])\s*[+\-*/^%]")
_SIGNS = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (
            r"(?<=\d)\s*(?:%|percent|per cent|prozent|por ciento|pour cent)\s*(?:of|von|de)\s+(?=[\d(])",
            " / 100 * ",
        ),
        (r"(?<=[\d)])\s*(?:plus|and then plus)\s+(?=[\d(])", " + "),
        (r"(?<=[\d)])\s*(?:minus|less)\s+(?=[\d(])", " - "),
        (r"(?<=[\d)])\s*(?:times|multiplied by|mal|[x\u00d7])\s*(?=[\d(])", " * "),
        (r"(?<=[\d)])\s*(?:divided by|geteilt durch|\u00f7)\s*(?=[\d(])", " / "),
        (r"(?<=[\d)])\s*(?:to the power of|hoch)\s+(?=[\d(])", " ^ "),
    )
]
"""Words for signs between numbers; a percentage of something is a product, a comma may group thousands."""
_WORD = r"['\"]?\w[\w-]*['\"]?"
_CHOICE = re.compile(rf"{_WORD}(?:\s*,\s*{_WORD})*\s*,?\s+(?:or|oder|o|ou)\s+{_WORD}", re.IGNORECASE)
_COMMA_OR = re.compile(r"\s*,\s*(?:(?:or|oder|o|ou)\s+)?|\s+(?:or|oder|o|ou)\s+", re.IGNORECASE)
_WORDS_BEFORE = 8
"""So many words may stand before a program on its line."""
_LEAST_TEXT = 40
"""Shorter pieces after a colon are no text to summarize."""


def plain_arguments(
    tool: str, message: str, *, attached: str = "", file: str | None = None
) -> dict[str, Any] | None:
    """The arguments of `tool` taken from the message, None where they do not stand in it.

    `attached` is text that came with the message, `file` the name of a file in it that is there.
    """
    if tool in _TAKEN:
        text = _TAKEN[tool](message) or attached
        return {_NAMED.get(tool, "text"): text} if text else None
    if tool == "read_file":
        return {"path": file} if file else None
    if tool == "write_code":
        return {"request": f"{message}\n\n{attached}" if attached else message}
    if tool == "calculator":
        expression = sum_in(message)
        return {"expression": expression} if expression else None
    if tool == "classify":
        return _labels_and_text(message, attached)
    return None


def _code_after_a_word(message: str) -> str | None:
    """The program that begins within the first line: "run print(1)"."""
    starts = [word.end() for word in re.finditer(r"\w+:?\s+", message.split("\n", 1)[0])][:_WORDS_BEFORE]
    return next((code for start in starts if (code := python_in(message[start:])) is not None), None)


def sum_in(message: str) -> str | None:
    """The one sum of a message, in words or signs; None where another number stands beside."""
    text = message.casefold()
    for words, sign in _SIGNS:
        text = words.sub(sign, text)
    numbers = len(_NUMBER.findall(text))
    spans = [span.strip(" ,.=?") for span in _SUM.findall(text)]
    spans = [span for span in spans if len(_NUMBER.findall(span)) == numbers and _OPERATOR.search(span)]
    return spans[0] if len(spans) == 1 and "," not in spans[0] else None


def _labels_and_text(message: str, attached: str) -> dict[str, Any] | None:
    """What "… positive, negative or neutral: TEXT" names: the labels before the colon, the text after it."""
    head, _, text = (part.strip() for part in message.partition(":"))
    text = text or attached
    found = _CHOICE.search(head)
    if not text or found is None:
        return None
    labels = [label.strip(" '\"") for label in _COMMA_OR.split(found[0]) if label.strip(" '\"")]
    return {"text": text.strip("'\""), "labels": labels} if len(set(labels)) == len(labels) >= 2 else None


def _after_the_request(message: str) -> str | None:
    """What stands after the first empty line, or after the first colon."""
    for separator in (r"\n\s*\n", r":\s+"):
        parts = re.split(separator, message.strip(), maxsplit=1)
        if len(parts) == 2 and len(parts[1]) >= _LEAST_TEXT:
            return parts[1].strip()
    return None


_TAKEN: Mapping[str, Callable[[str], str | None]] = {
    "remember": asked_to_remember,
    "run_python": lambda message: python_in(message) or _code_after_a_word(message),
    "summarize": _after_the_request,
}
_NAMED: Mapping[str, str] = {"run_python": "code"}
